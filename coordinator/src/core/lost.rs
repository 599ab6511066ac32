//! Runs that another coordinator has taken over. This coordinator drops such a run and writes nothing more for it.

use super::{Command, Core};
use proto::event::PoolEvent;
use proto::id::RunId;
use proto::protocol::Duty;
use std::collections::VecDeque;

impl Core {
    /// Whether this coordinator has the run and it has not ended.
    pub fn holds(&self, run: &RunId) -> bool {
        self.runs.contains_key(run)
    }
}

impl Command {
    /// Removes the commands that act for a lost run, whose journal entry could not be written. Callers that wait for an
    /// answer about the run get `why` as an error. The commands of other runs stay.
    pub fn take_back(commands: &mut VecDeque<Self>, run: &RunId, why: &str) {
        commands.retain_mut(|command| match command {
            Self::Answer { answer, .. } => {
                if answer.as_ref() == Ok(run) {
                    *answer = Err(why.to_owned());
                }
                true
            }
            command => command.acts_for() != Some(run),
        });
    }

    fn acts_for(&self) -> Option<&RunId> {
        match self {
            Self::Journal { run, .. }
            | Self::JournalPool(PoolEvent::Submitted { run, .. } | PoolEvent::Resumed { run })
            | Self::Survey { run }
            | Self::FindPrepared { run, .. }
            | Self::Plan { run, .. }
            | Self::Receipt { run, .. }
            | Self::Publish { run, .. }
            | Self::Retain { run, .. }
            | Self::Discard { run, .. }
            | Self::Notify { run, .. } => Some(run),
            Self::Seal { checkpoint, .. } => Some(&checkpoint.run),
            Self::Direct { directive, .. } => match &directive.duty {
                Duty::Prepare(prepare) => Some(&prepare.run),
                Duty::Load(load) => Some(&load.run),
                Duty::Train(train) => Some(&train.load.run),
                Duty::Idle | Duty::Dismissed { .. } | Duty::NotNow { .. } => None,
            },
            Self::JournalPool(PoolEvent::Opened { .. })
            | Self::Answer { .. }
            | Self::Dial { .. }
            | Self::Close { .. } => None,
        }
    }
}
