//! A text as words, which are the same whatever its case, white space and punctuation.
//!
//! Letters and digits make words. In scripts without spaces between words, every character is a
//! word. Operators, brackets and pictures are words too, so that `2 + 2` is not `2 - 2`.

/// A word, represented by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) hash: u64,
    /// Whether the word contains a letter.
    pub(super) has_letter: bool,
}

impl Word {
    const EMPTY: Word = Word { hash: 0, has_letter: false };

    /// Appends a character in lower case.
    fn push(&mut self, c: char) {
        self.has_letter |= c.is_alphabetic();
        if c.is_ascii() {
            self.fold(c.to_ascii_lowercase());
        } else {
            c.to_lowercase().for_each(|c| self.fold(c));
        }
    }

    fn fold(&mut self, c: char) {
        // One multiplication per character; users of the hash mix its bits once.
        let hash = (self.hash ^ u64::from(c)).wrapping_add(1);
        self.hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// The role of a character in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Part of a word.
    Part,
    /// A word by itself.
    Whole,
    /// A gap between words.
    Gap,
}

/// Appends the words of `text`.
pub(super) fn words(text: &str, out: &mut Vec<Word>) {
    let mut word = Word::EMPTY;
    let mut is_open = false;
    for c in text.chars() {
        let class = class(c);
        if class != Class::Part && is_open {
            out.push(std::mem::replace(&mut word, Word::EMPTY));
            is_open = false;
        }
        match class {
            Class::Part => {
                word.push(c);
                is_open = true;
            }
            Class::Whole => {
                let mut whole = Word::EMPTY;
                whole.push(c);
                out.push(whole);
            }
            Class::Gap => {}
        }
    }
    if is_open {
        out.push(word);
    }
}

fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => Class::Part,
        '!' | '"' | '\'' | ',' | '.' | ':' | ';' | '?' | '_' | '`' => Class::Gap,
        '!'..='~' => Class::Whole,
        '\0'..='\x7f' => Class::Gap,
        _ if c.is_alphanumeric() => match is_unspaced(c) {
            true => Class::Whole,
            false => Class::Part,
        },
        // Accents that are written as separate characters.
        '\u{300}'..='\u{36f}' => Class::Part,
        '¬' | '±' | '×' | '÷' => Class::Whole,
        // Joiners, dashes, quotes; CJK punctuation and its wide forms; variation selectors.
        '\u{80}'..='\u{206f}'
        | '\u{3000}'..='\u{303f}'
        | '\u{fe00}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff65}'
        | '\u{e0000}'..='\u{e01ef}' => Class::Gap,
        // Arrows, operators, pictures.
        _ => Class::Whole,
    }
}

/// Whether a letter belongs to a script without spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}'     // Thai, Lao
        | '\u{1000}'..='\u{109f}'   // Myanmar
        | '\u{1780}'..='\u{17ff}'   // Khmer
        | '\u{2e80}'..='\u{2fdf}'   // radicals
        | '\u{3005}'..='\u{30ff}'   // iteration marks, Hiragana, Katakana
        | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'   // Han
        | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9f}'   // half-width Katakana
        | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<u64> {
        let mut out = Vec::new();
        words(text, &mut out);
        out.into_iter().map(|word| word.hash).collect()
    }

    #[test]
    fn case_space_and_punctuation_make_no_difference() {
        let plain = of("what is the capital of france");
        assert_eq!(of("  What is  the capital,\n of FRANCE?!"), plain);
        assert_eq!(plain.len(), 6);
        assert_eq!(of("„ÜBER“ — straße…"), of("über Straße"));
        assert_eq!(of("don't"), of("don’t"));
        assert!(of("\u{2003}?!…").is_empty());
    }

    #[test]
    fn operators_brackets_and_pictures_make_a_difference() {
        for (a, b) in [("2 + 2", "2 - 2"), ("3 × 4", "3 ÷ 4"), ("[0, 1)", "(0, 1]"), ("😀", "😢")]
        {
            assert_ne!(of(a), of(b), "{a} {b}");
        }
        // The same picture in another presentation.
        assert_eq!(of("❤\u{fe0f}"), of("❤"));
    }

    #[test]
    fn scripts_without_spaces_are_split_into_characters() {
        assert_eq!(of("你好，世界。").len(), 4);
        assert_eq!(of("ありがとう、Tokyo 2024").len(), 7);
        assert_eq!(of("안녕 세계").len(), 2);
        assert_eq!(of("مرحبا بالعالم").len(), 2);
    }

    #[test]
    fn order_and_place_of_letters_matter() {
        let mut all: Vec<u64> = ["a", "b", "ab", "ba", "aab", "aba", "baa", "0", "00"]
            .iter()
            .flat_map(|t| of(t))
            .collect();
        let words = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((words, all.len()), (9, 9));
    }
}
