//! Finds answers that stop in the middle.
//!
//! Precision comes before completeness: a title, a list, a poem and a line of code need no full
//! stop, so an answer counts only if something is open that its author would have closed.

/// Words with which no sentence ends.
const DANGLING: [&str; 16] = [
    "a", "an", "and", "because", "but", "every", "into", "its", "my", "of", "or", "our", "than",
    "the", "their", "your",
];
/// A line with fewer words may be a greeting, a title or an item of a list.
const LINE_WORDS: usize = 6;
/// A line with at least this many words that has sentences is prose, which ends with a full stop.
const PROSE_WORDS: usize = 30;

/// Whether an answer stops in a code block, a bracket or a sentence.
pub(super) fn is_incomplete(answer: &str) -> bool {
    let answer = answer.trim_end();
    match after_fences(answer) {
        None => true,
        Some(text) => text.lines().last().is_some_and(is_open),
    }
}

/// The text after the last fenced code block. None if that block is never closed.
fn after_fences(answer: &str) -> Option<&str> {
    let mut open: Option<(char, usize)> = None;
    let mut rest = answer;
    for line in answer.lines() {
        let bare = line.trim();
        // CommonMark: a fence has three or more of these characters, and an opening fence of
        // backticks has none after it.
        let fence = bare.chars().next().filter(|&c| c == '`' || c == '~');
        let fence = fence.map(|c| (c, bare.chars().take_while(|&other| other == c).count()));
        match (open, fence) {
            (None, Some((c, len @ 3..))) if c == '~' || !bare[len..].contains('`') => {
                open = Some((c, len));
            }
            (Some((c, least)), Some((same, len)))
                if same == c && len >= least && len == bare.len() =>
            {
                open = None;
                let end = line.as_ptr() as usize - answer.as_ptr() as usize + line.len();
                rest = &answer[end..];
            }
            (None | Some(_), None | Some(_)) => {}
        }
    }
    open.is_none().then_some(rest)
}

/// Whether an answer's last line leaves something open.
fn is_open(line: &str) -> bool {
    let line = line.trim();
    let words = line.split_whitespace().count();
    let Some(last) = line.chars().next_back() else {
        return false;
    };
    match last {
        ',' => words >= LINE_WORDS,
        // This script has no spaces by which words could be counted.
        '，' | '、' => line.chars().count() >= 2 * LINE_WORDS,
        _ if !last.is_alphanumeric() || words < LINE_WORDS => false,
        _ => ends_dangling(line) || has_open_bracket(line) || is_unfinished_prose(line, words),
    }
}

fn ends_dangling(line: &str) -> bool {
    let last = line.rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let is_whole = line[..line.len() - last.len()].ends_with(' ');
    is_whole && DANGLING.contains(&last)
}

/// Whether a bracket before a word is left open. `(0, 1]` counts as closed.
fn has_open_bracket(line: &str) -> bool {
    let Some((before, inside)) = line.rsplit_once(['(', '[']) else {
        return false;
    };
    before.ends_with(' ')
        && inside.starts_with(char::is_alphanumeric)
        && !inside.contains([')', ']'])
}

/// Whether a line has sentences, and the last of them has no end: it stops with a word in small
/// letters, so not with a name, a hashtag or an address.
fn is_unfinished_prose(line: &str, words: usize) -> bool {
    let last = line.split_whitespace().next_back().unwrap_or_default();
    if !last.chars().all(char::is_lowercase) {
        return false;
    }
    let mut ends = line.match_indices(['.', '!', '?']).map(|(at, _)| &line[at + 1..]);
    let is_sentence = |rest: &str| {
        let mut chars = rest.chars();
        chars.next() == Some(' ') && chars.next().is_some_and(char::is_uppercase)
    };
    words >= PROSE_WORDS && ends.any(is_sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROSE: &str = "The engine was built in 1843 by a small team of engineers in Manchester. \
                         It was meant to pull coal wagons up the steep incline behind the mill, \
                         and it did so every day until the";

    #[test]
    fn an_answer_that_leaves_something_open_is_incomplete() {
        for answer in [
            "Here it is:\n```python\ndef f(x):\n    return x",
            "~~~~\ncode\n~~~\nstill code",
            PROSE,
            &PROSE.replace(" until the", " until spring came and the snow"),
            "There are three kinds of people, those who count,",
            "You can use any of these tools (for example a hammer",
            "我们可以使用很多不同的方法来解决这个问题，",
        ] {
            assert!(is_incomplete(answer), "{answer}");
        }
    }

    #[test]
    fn an_answer_that_needs_no_full_stop_is_complete() {
        for answer in [
            "",
            "Paris",
            "The answer to your question is A",
            "```python\nprint('(')\n```",
            "````\n```\nnested\n````",
            "Use ```inline``` here",
            "1. Flour\n2. Eggs\n3. A pinch of salt, pepper and a spoon of sugar",
            "Dear Anna,\nthank you for your letter.\n\nYours sincerely,",
            "The interval is written as (0, 1] in this book about numbers",
            "That is a pity :(",
            "A long title in which each and every Word is Written without any End",
            &format!("{PROSE} mill closed."),
            &format!("{PROSE} mill closed.\n\nSources: the archive"),
            &format!("{PROSE} mill closed. #SteamEngine"),
            &format!("{PROSE} mill closed. See example.org/engines"),
            "他们都说这个问题很难，但是我们已经解决了。",
        ] {
            assert!(!is_incomplete(answer), "{answer}");
        }
    }
}
