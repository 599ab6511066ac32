//! The status of a Job.

use serde_json::{Value, json};

use crate::clock::Time;
use crate::json::Json;

/// A condition of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) probed: Time,
    pub(crate) since: Time,
}

impl Condition {
    pub(crate) fn new(kind: &str, reason: &str, message: &str, now: Time) -> Self {
        Self {
            kind: kind.to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            probed: now,
            since: now,
        }
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.kind == kind && self.status == "True"
    }

    fn read(condition: &Value) -> Self {
        let time = |path: &str| condition.text(path).and_then(Time::parse).unwrap_or_default();
        Self {
            kind: condition.str("type").to_owned(),
            status: condition.str("status").to_owned(),
            reason: condition.str("reason").to_owned(),
            message: condition.str("message").to_owned(),
            probed: time("lastProbeTime"),
            since: time("lastTransitionTime"),
        }
    }

    fn write(&self) -> Value {
        let mut condition = json!({
            "type": self.kind, "status": self.status,
            "lastProbeTime": self.probed.rfc3339(), "lastTransitionTime": self.since.rfc3339(),
        });
        for (field, text) in [("reason", &self.reason), ("message", &self.message)] {
            if !text.is_empty() {
                condition.put(field, text.as_str());
            }
        }
        condition
    }
}

/// The status of a Job. Absent counters are kept apart from zero where the API tells them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) start_time: Option<Time>,
    pub(crate) completion_time: Option<Time>,
    pub(crate) active: u32,
    pub(crate) succeeded: u32,
    pub(crate) failed: u32,
    pub(crate) ready: Option<u32>,
    pub(crate) terminating: Option<u32>,
    pub(crate) completed_indexes: String,
    pub(crate) failed_indexes: Option<String>,
    /// Uids of succeeded pods whose finalizer is not removed yet.
    pub(crate) uncounted_succeeded: Vec<String>,
    /// Uids of failed pods whose finalizer is not removed yet.
    pub(crate) uncounted_failed: Vec<String>,
}

impl Status {
    pub(crate) fn read(status: &Value) -> Self {
        let count = |path: &str| status.int(path).map(|count| u32::try_from(count).unwrap_or(0));
        let time = |path: &str| status.text(path).and_then(Time::parse);
        let uids = |path: &str| {
            status
                .list(path)
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        Self {
            conditions: status.list("conditions").iter().map(Condition::read).collect(),
            start_time: time("startTime"),
            completion_time: time("completionTime"),
            active: count("active").unwrap_or(0),
            succeeded: count("succeeded").unwrap_or(0),
            failed: count("failed").unwrap_or(0),
            ready: count("ready"),
            terminating: count("terminating"),
            completed_indexes: status.str("completedIndexes").to_owned(),
            failed_indexes: status.text("failedIndexes").map(str::to_owned),
            uncounted_succeeded: uids("uncountedTerminatedPods.succeeded"),
            uncounted_failed: uids("uncountedTerminatedPods.failed"),
        }
    }

    pub(crate) fn write(&self) -> Value {
        let mut status = json!({"uncountedTerminatedPods": {}});
        if !self.conditions.is_empty() {
            status.put(
                "conditions",
                self.conditions.iter().map(Condition::write).collect::<Vec<_>>(),
            );
        }
        for (field, time) in
            [("startTime", self.start_time), ("completionTime", self.completion_time)]
        {
            if let Some(time) = time {
                status.put(field, time.rfc3339());
            }
        }
        for (field, count) in
            [("active", self.active), ("succeeded", self.succeeded), ("failed", self.failed)]
        {
            if count > 0 {
                status.put(field, count);
            }
        }
        for (field, count) in [("ready", self.ready), ("terminating", self.terminating)] {
            if let Some(count) = count {
                status.put(field, count);
            }
        }
        if !self.completed_indexes.is_empty() {
            status.put("completedIndexes", self.completed_indexes.as_str());
        }
        if let Some(indexes) = &self.failed_indexes {
            status.put("failedIndexes", indexes.as_str());
        }
        let uncounted =
            [("succeeded", &self.uncounted_succeeded), ("failed", &self.uncounted_failed)];
        for (field, uids) in uncounted.into_iter().filter(|(_, uids)| !uids.is_empty()) {
            status.put(&format!("uncountedTerminatedPods.{field}"), uids.clone());
        }
        status
    }

    pub(crate) fn is(&self, kind: &str) -> bool {
        self.conditions.iter().any(|condition| condition.is(kind))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    /// Adds or changes a condition and returns whether it changed; a false condition is never added.
    pub(crate) fn ensure(&mut self, wanted: Condition) -> bool {
        match self.conditions.iter_mut().find(|condition| condition.kind == wanted.kind) {
            Some(existing) => {
                let same = existing.status == wanted.status
                    && existing.reason == wanted.reason
                    && existing.message == wanted.message;
                if !same {
                    *existing = wanted;
                }
                !same
            }
            None if wanted.status == "False" => false,
            None => {
                self.conditions.push(wanted);
                true
            }
        }
    }
}
