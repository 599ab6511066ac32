//! The inspection as text and as JSON lines.

use super::Inspection;
use super::samples::Shown;
use data::Piece;
use proto::text::visible;
use std::fmt::Write as _;

/// The receipt, the plan and every sample, one JSON object per line.
pub(super) fn lines(inspection: &Inspection) -> String {
    let Inspection { name, receipt, plan, of, samples } = inspection;
    let mut objects = vec![
        serde_json::json!({"event": "receipt", "name": name, "receipt": receipt}),
        serde_json::json!({"event": "plan", "plan": plan}),
        serde_json::json!({"event": "samples", "shown": samples.len(), "of": of}),
    ];
    objects.extend(samples.iter().map(|s| serde_json::json!({"event": "sample", "sample": s})));
    objects.iter().map(|object| format!("{object}\n")).collect()
}

/// The inspection for people. Trained text is green and other text dimmed; without colour, trained text is in brackets.
pub(super) fn text(inspection: &Inspection, colour: bool) -> String {
    let Inspection { name, receipt, plan, of, samples } = inspection;
    let mut out = format!("{name}\n\n{receipt}\n{plan}\n");
    for sample in samples {
        let Shown { origin, tokens, trained_tokens, .. } = sample;
        let origin = visible(origin);
        // Writing to a String cannot fail.
        let _ = write!(out, "── {origin}: {tokens} tokens, {trained_tokens} trained");
        let _ =
            writeln!(out, "{}", sample.fate.label().map_or(String::new(), |l| format!("; {l}")));
        for Piece { text, weight } in &sample.pieces {
            let text = visible(text);
            let _ = match (colour, weight) {
                (true, 0.0) => write!(out, "\u{1b}[2m{text}\u{1b}[0m"),
                (true, 1.0) => write!(out, "\u{1b}[32m{text}\u{1b}[0m"),
                (true, w) => write!(out, "\u{1b}[33m{text}\u{1b}[2m×{w}\u{1b}[0m"),
                (false, 0.0) => write!(out, "{text}"),
                (false, 1.0) => write!(out, "⟦{text}⟧"),
                (false, w) => write!(out, "⟦{w}|{text}⟧"),
            };
        }
        out.push_str("\n\n");
    }
    let more = of.saturating_sub(samples.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "{more} more samples; use --samples N to show more");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fate::Fate;
    use super::*;
    use crate::cli::outlook::Outlook;
    use crate::cli::preview::Preview;
    use proto::receipt::Receipt;

    #[test]
    fn trained_text_is_marked_with_and_without_colour() {
        let piece = |text: &str, weight| Piece { text: text.into(), weight };
        let sample = Shown {
            source: "a".into(),
            origin: "a.jsonl, line 3".into(),
            tokens: 4,
            trained_tokens: 2,
            fate: Fate::Evaluated,
            pieces: vec![piece("Q\u{1b}[0m", 0.0), piece("A", 1.0), piece("B", 0.5)],
        };
        let inspection = Inspection {
            name: "n".into(),
            receipt: Receipt::default(),
            plan: Outlook::new(&Preview::example()),
            of: 8,
            samples: vec![sample],
        };
        let plain = text(&inspection, false);
        let header = "── a.jsonl, line 3: 4 tokens, 2 trained; evaluated on, never trained\n";
        assert!(plain.contains(header), "{plain}");
        assert!(plain.contains("Q\\u{1b}[0m⟦A⟧⟦0.5|B⟧"), "{plain}");
        assert!(plain.ends_with("\n7 more samples; use --samples N to show more\n"), "{plain}");
        assert!(text(&inspection, true).contains("\u{1b}[32mA\u{1b}[0m"));
    }
}
