//! Texts that tell tokenizers apart: scripts, white space and case affect each other's boundaries.

/// The fragments that the texts are composed of.
const FRAGMENTS: &[&str] = &[
    // Words, and endings that are cut off words.
    "the",
    "The",
    "THE",
    "internationalization",
    "HTTPServer",
    "iPhone",
    "x",
    "aaaaaaaaaaaaaaaaaa",
    "'s",
    "'S",
    "'\u{17f}",
    "'re",
    "'RE",
    "'Ve",
    "'ll",
    "'lL",
    "'d",
    "'",
    "''",
    "\u{2019}s",
    "don't",
    // Numbers of all kinds.
    "0",
    "7",
    "42",
    "1234567890123",
    "3.14",
    "½",
    "Ⅷ",
    "²",
    "٣٤",
    "१२३",
    "𝟘𝟙",
    "一二",
    "〇",
    // White space of all kinds.
    " ",
    "  ",
    "        ",
    "\t",
    "\t\t",
    "\n",
    "\n\n\n",
    "\r\n",
    "\r",
    " \n ",
    "\u{b}",
    "\u{c}",
    "\u{85}",
    "\u{a0}",
    "\u{1680}",
    "\u{2003}",
    "\u{2028}",
    "\u{3000}",
    "\u{200b}",
    "\u{feff}",
    // Signs.
    ".",
    "...",
    "!?",
    "/",
    "//",
    "/\n",
    "_",
    "-",
    "=================",
    "<|",
    "|>",
    "<",
    ">",
    "{\"a\":",
    "\\",
    "@",
    "#",
    "$",
    "€",
    "—",
    "…",
    // Scripts, marks and joined characters.
    "ñ",
    "e\u{301}",
    "\u{301}",
    "A\u{30a}",
    "ǅ",
    "ʰ",
    "ª",
    "ß",
    "ΣΑΣ",
    "日本語",
    "한국어",
    "ก็",
    "हिन्दी",
    "العربية",
    "שלום",
    "\u{202e}abc\u{202c}",
    "👩\u{200d}👩\u{200d}👧",
    "🏳\u{fe0f}\u{200d}🌈",
    "🇩🇪",
    "👍🏽",
    "\u{1100}\u{1161}",
    "\0",
    "\u{7f}\u{80}",
    "\u{fffd}",
    "\u{e000}\u{10fffd}",
    "𐐀𐐨",
];

/// `count` texts of a few fragments each, the same for the same seed. `more` are additional
/// fragments.
pub(super) fn texts(seed: u64, count: usize, more: &[String]) -> impl Iterator<Item = String> {
    let fixed = FRAGMENTS.iter().map(|fragment| (*fragment).to_owned());
    let fragments: Vec<String> = fixed.chain(more.iter().cloned()).collect();
    let mut random = SplitMix(seed);
    (0..count).map(move |_| {
        let length = 1 + random.below(12);
        (0..length).map(|_| fragments[random.below(fragments.len())].as_str()).collect()
    })
}

/// `SplitMix64`: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % bound
    }
}
