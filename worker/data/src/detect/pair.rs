//! A question and its answer in two fields: under Alpaca's names, or under those of other data sets
//! that are read as Alpaca.

use std::collections::BTreeMap;

use super::{Doubt, Looks, quoted};

/// The names of the question. `input` is one only if there is no other, because it is also what an
/// instruction is about.
const QUESTIONS: [&str; 4] = ["instruction", "question", "query", "prompt"];
/// The names of the answer.
const ANSWERS: [&str; 3] = ["output", "response", "answer"];
/// The names of further fields: Alpaca's, and a synonym.
const OTHERS: [(&str, &str); 2] = [("input", "context"), ("system", "system_prompt")];

/// The fields of a record that consists of one question and one answer.
pub(super) struct Pair {
    question: String,
    answer: String,
    /// Alpaca's names and the record's, where they differ and the source does not give them.
    odd: Vec<(&'static str, String)>,
}

impl Pair {
    /// Looks for a question and an answer.
    ///
    /// # Errors
    /// Several fields that could be one of the two; a `prompt`, which other data sets complete
    /// without a chat template.
    pub(super) fn find(looks: &Looks<'_>) -> Result<Option<Pair>, Doubt> {
        let candidates = |name: &str, known: &[&str]| -> Vec<String> {
            // Alpaca's own name, or the source's name for it, leaves no choice.
            match looks.own(name) {
                Some(own) => vec![own.to_owned()],
                None => {
                    let there = known.iter().filter(|name| looks.record.contains_key(**name));
                    there.map(|name| (*name).to_owned()).collect()
                }
            }
        };
        let mut questions = candidates("instruction", &QUESTIONS);
        let answers = candidates("output", &ANSWERS);
        if questions.is_empty() {
            questions.extend(looks.own("input").map(str::to_owned));
        }
        match (&questions[..], &answers[..]) {
            ([], _) | (_, []) => Ok(None),
            ([question], [answer]) if question != "prompt" || looks.says("instruction") => {
                Ok(Some(Pair::new(looks, question, answer)))
            }
            _ => Err(Doubt::Ambiguous { questions, answers }),
        }
    }

    fn new(looks: &Looks<'_>, question: &str, answer: &str) -> Pair {
        let pair = [("instruction", question), ("output", answer)];
        let others = OTHERS.into_iter().filter_map(|(name, alias)| {
            let alias = || looks.record.contains_key(alias).then_some(alias);
            Some((name, looks.own(name).or_else(alias)?))
        });
        let others = others.filter(|(_, own)| *own != question);
        let read = pair.into_iter().chain(others);
        let odd = read.filter(|(name, own)| name != own && !looks.says(name));
        Pair {
            question: question.to_owned(),
            answer: answer.to_owned(),
            odd: odd.map(|(name, own)| (name, own.to_owned())).collect(),
        }
    }

    /// The records' names for Alpaca's fields, where the source does not give them.
    pub(super) fn fields(&self) -> BTreeMap<String, String> {
        self.odd.iter().map(|(name, own)| ((*name).to_owned(), own.clone())).collect()
    }

    /// What shows the format, and how the fields are read.
    pub(super) fn why(&self) -> String {
        let pair = quoted(&[self.question.clone(), self.answer.clone()], " and ");
        let read = self.odd.iter().map(|(name, own)| format!("`{own}` is read as `{name}`"));
        let read: Vec<String> = read.collect();
        match read.is_empty() {
            true => pair,
            false => format!("{pair}; {}", read.join(", ")),
        }
    }
}

impl Looks<'_> {
    /// Whether the source gives this field a name.
    fn says(&self, name: &str) -> bool {
        self.source.fields.contains_key(name)
    }
}
