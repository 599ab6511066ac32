//! Hints for unknown keys: keys of other tools, misplaced keys, and misspelt keys.

use super::schema::{join, known_keys};

/// Groups of keys, each followed by an indented line with the hint for the group.
const FOREIGN: &str = include_str!("foreign_keys.txt");

/// What to write instead of the unknown `key` in the map at `path`, whose known keys are `here`.
pub(super) fn hint<'a>(
    path: &str,
    key: &str,
    here: impl Iterator<Item = &'a String> + Clone,
) -> String {
    let plain = key.to_lowercase().replace('-', "_");
    if let Some(hint) = foreign(&plain) {
        return hint.to_owned();
    }
    let known = known_keys();
    let places = |name: &str| {
        let here = known.iter().filter(|(at, known)| at != path && known == name);
        let here: Vec<String> = here.map(|(at, key)| format!("`{}`", join(at, key))).collect();
        here.join(" or ")
    };
    let elsewhere = places(&plain);
    if !elsewhere.is_empty() {
        return format!("write it as {elsewhere}");
    }
    if let Some(name) = nearest(&plain, here.clone().map(String::as_str)) {
        return format!("did you mean `{name}`?");
    }
    if let Some(name) = nearest(&plain, known.iter().map(|(_, name)| name.as_str())) {
        return format!("did you mean {}?", places(name));
    }
    let here: Vec<String> = here.map(|key| format!("`{key}`")).collect();
    format!("known here: {}", here.join(", "))
}

/// The candidate with the smallest edit distance to `word`, if one is close enough.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let bound = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn foreign(key: &str) -> Option<&'static str> {
    let lines = FOREIGN.lines().filter(|line| !line.starts_with('#'));
    let mut found = false;
    for line in lines {
        match line.strip_prefix("    ") {
            Some(hint) if found => return Some(hint),
            Some(_) => {}
            None => found |= line.split(' ').any(|foreign| foreign == key),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_of_the_spec_is_listed_as_foreign() {
        // A known key in the wrong place would otherwise get the hint for another tool's key.
        let ours = known_keys();
        assert!(ours.len() > 50, "{ours:?}");
        for (_, key) in &ours {
            assert_eq!(foreign(key), None, "{key}");
        }
    }

    #[test]
    fn nearest_allows_one_edit_in_three_letters() {
        let keys = ["learning_rate", "epochs", "min"];
        assert_eq!(nearest("learning_rat", keys.into_iter()), Some("learning_rate"));
        assert_eq!(nearest("epoch", keys.into_iter()), Some("epochs"));
        assert_eq!(nearest("wax", keys.into_iter()), None);
    }
}
