//! Values and variants derived from a valid spec.

use super::{ChatTemplate, Data, Error, EvalOn, HubName, Location, Source, Spec, Workers};
use crate::key;
use chrono::NaiveDate;
use std::collections::BTreeMap;
use std::path::Path;

impl Spec {
    /// Parses the output of [`Spec::resolved_yaml`], in which every path is absolute.
    ///
    /// # Errors
    /// The errors of [`parse`](super::parse).
    pub fn from_resolved(yaml: &str) -> Result<Spec, Error> {
        super::parse(yaml, Path::new("/"))
    }

    /// The same spec with `day` as its date, unless it has a date already.
    pub fn dated(mut self, day: Option<NaiveDate>) -> Spec {
        self.data.date = self.data.date.or(day);
        self
    }

    /// Identifies the spec: a SHA-256 of everything except the date of the submission and the location of the output.
    pub fn identity(&self) -> String {
        let mut rest = self.clone();
        rest.data.date = None;
        rest.output = Location::File("/".into());
        crate::manifest::sha256(rest.resolved_yaml().as_bytes())
    }

    /// The same spec with between `min` and `max` workers.
    pub fn with_workers(mut self, min: u32, max: u32) -> Spec {
        self.workers = Workers { min, max };
        self
    }

    /// Where the files of the base model are. A pinned name on the hub becomes the folder under the output to which
    /// its files are staged.
    pub fn base(&self) -> Location {
        match &self.model.base {
            Location::Hub(name) => match name.pinned() {
                Some(commit) => self.output.join(&key::staged(&name.repo, commit.as_str())),
                None => Location::Hub(name.clone()),
            },
            base @ (Location::File(_) | Location::Url { .. }) => base.clone(),
        }
    }

    /// Every name on the hub that the run reads, with the field that contains it.
    pub fn hub_names(&self) -> Vec<(String, HubName)> {
        let mut spec = self.clone();
        let name = |(field, location): (String, &mut Location)| {
            location.as_hub().map(|name| (field, name.clone()))
        };
        spec.inputs_mut().into_iter().filter_map(name).collect()
    }

    /// The same spec with names on the hub resolved as in `pins`.
    pub fn pinned(mut self, pins: &BTreeMap<HubName, HubName>) -> Spec {
        for (_, location) in self.inputs_mut() {
            if let Location::Hub(name) = location
                && let Some(pinned) = pins.get(name)
            {
                *name = pinned.clone();
            }
        }
        self
    }

    /// The same spec with names on the hub resolved as in `old`, so that a resumed run reads the same commits.
    pub fn pinned_as(self, old: &Spec) -> Spec {
        let names = old.hub_names().into_iter();
        self.pinned(&names.map(|(_, name)| (name.unpinned(), name)).collect())
    }

    /// Every location that the run reads, with the field that contains it.
    pub fn inputs(&self) -> Vec<(String, Location)> {
        let mut spec = self.clone();
        spec.inputs_mut().into_iter().map(|(field, location)| (field, location.clone())).collect()
    }

    fn inputs_mut(&mut self) -> Vec<(String, &mut Location)> {
        let evaluated = match &mut self.data.eval.on {
            EvalOn::Sources(sources) => &mut sources[..],
            EvalOn::Nothing | EvalOn::Holdout(_) => &mut [],
        };
        let lists = [
            ("data.train", &mut self.data.train[..]),
            ("data.eval.sources", evaluated),
            ("data.quality.benchmarks", &mut self.data.quality.benchmarks),
        ];
        let sources = lists.into_iter().flat_map(|(list, sources)| {
            let field = move |i| format!("{list}[{i}].source");
            sources.iter_mut().enumerate().map(move |(i, s)| (field(i), &mut s.location))
        });
        let mut inputs = vec![("model.base".to_owned(), &mut self.model.base)];
        inputs.extend(sources);
        if let ChatTemplate::File(location) = &mut self.data.chat_template {
            inputs.push(("data.chat_template".to_owned(), location));
        }
        inputs
    }
}

impl Data {
    /// Every source whose records are prepared: first those to train on, then those that are only evaluated, then the
    /// benchmarks.
    pub fn sources(&self) -> Vec<&Source> {
        let others = self.evaluated().iter().chain(&self.quality.benchmarks);
        self.train.iter().chain(others).collect()
    }

    /// The sources that are only evaluated.
    pub fn evaluated(&self) -> &[Source] {
        match &self.eval.on {
            EvalOn::Sources(sources) => sources,
            EvalOn::Nothing | EvalOn::Holdout(_) => &[],
        }
    }
}
