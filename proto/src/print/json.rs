//! Log lines as JSON, one object per line, for programs that collect logs.
//!
//! Every line has `time`, `level`, `target` and `message`, the event's own fields, and the place in a run that it is
//! about: `run`, `generation`, `rank` and `step`, each `null` if it is about none.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// A place in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The run.
    pub run: Option<String>,
    /// The number of the membership.
    pub generation: Option<u64>,
    /// The rank of this process in it.
    pub rank: Option<u32>,
    /// Steps committed.
    pub step: Option<u64>,
}

/// The places that lines are about.
struct Places {
    /// The place of this process, if it works for one run at a time.
    own: Place,
    /// The place of each run that this process coordinates.
    runs: BTreeMap<String, Place>,
}

static PLACES: Mutex<Places> = Mutex::new(Places {
    own: Place { run: None, generation: None, rank: None, step: None },
    runs: BTreeMap::new(),
});

fn places() -> MutexGuard<'static, Places> {
    PLACES.lock().expect("nothing panics while it holds the lock")
}

/// Changes the place of this process.
pub fn move_to(change: impl FnOnce(&mut Place)) {
    change(&mut places().own);
}

/// Changes the place of a run that this process coordinates.
pub fn move_run(run: &str, change: impl FnOnce(&mut Place)) {
    change(places().runs.entry(run.to_owned()).or_default());
}

/// Forgets a run, which has ended.
pub fn forget_run(run: &str) {
    places().runs.remove(run);
}

/// Formats events as JSON.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        line.insert("time".into(), time.into());
        line.insert("level".into(), event.metadata().level().as_str().into());
        line.insert("target".into(), event.metadata().target().into());
        event.record(&mut Fields(&mut line));
        complete(&mut line, &places());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// Adds the place that a line is about, as far as the line does not name it.
fn complete(line: &mut Map<String, Value>, places: &Places) {
    let named = line.get("run").and_then(Value::as_str);
    let place = match named {
        Some(run) if places.own.run.as_deref() != Some(run) => {
            places.runs.get(run).cloned().unwrap_or_default()
        }
        Some(_) | None => places.own.clone(),
    };
    let Place { run, generation, rank, step } = place;
    let known = [
        ("run", json!(run)),
        ("generation", json!(generation)),
        ("rank", json!(rank)),
        ("step", json!(step)),
    ];
    for (name, value) in known {
        line.entry(name).or_insert(value);
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        // A generation is recorded through `Display`, and arrives as a text.
        match text.parse::<u64>() {
            Ok(number) if field.name() == "generation" => self.insert(field, number),
            Ok(_) | Err(_) => self.insert(field, text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn every_line_is_an_object_with_the_place_that_it_is_about() {
        let lines = Lines::default();
        let subscriber =
            tracing_subscriber::fmt().with_writer(lines.clone()).event_format(Json).finish();
        move_run("a-1", |place| (place.generation, place.step) = (Some(2), Some(30)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(run = %"a-1", why = "a \"quote\"\nand a line", "about a coordinated run");
            tracing::warn!(run = %"a-1", step = 7_u64, loss = 1.5, applied = true, "its own step");
            tracing::info!("about nothing");
            move_to(|own| {
                let run = Some("b-2".to_owned());
                *own = Place { run, generation: Some(1), rank: Some(3), step: None };
            });
            tracing::info!(generation = %9, "of a rank");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let read: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let [coordinated, own, nothing, rank] = &read[..] else { panic!("4 lines: {text}") };
        let place =
            |line: &Value| ["run", "generation", "rank", "step"].map(|name| line[name].clone());
        assert_eq!(place(coordinated), [json!("a-1"), json!(2), Value::Null, json!(30)]);
        assert_eq!(coordinated["why"], "a \"quote\"\nand a line");
        assert_eq!(coordinated["message"], "about a coordinated run");
        assert_eq!(place(own), [json!("a-1"), json!(2), Value::Null, json!(7)]);
        assert_eq!((&own["loss"], &own["applied"]), (&json!(1.5), &json!(true)));
        assert_eq!((&own["level"], &own["target"]), (&json!("WARN"), &json!(module_path!())));
        assert_eq!(place(nothing), [Value::Null, Value::Null, Value::Null, Value::Null]);
        assert!(nothing.as_object().unwrap().contains_key("rank"));
        assert_eq!(place(rank), [json!("b-2"), json!(9), json!(3), Value::Null]);
        assert!(read.iter().all(|line| line["time"].as_str().unwrap().ends_with('Z')));
    }
}
