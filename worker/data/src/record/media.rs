//! Images, videos and sounds: what no text model reads.

use proto::receipt::Reason;

use super::Reject;
use super::fields::Fields;

/// Columns that hold them, beside a conversation.
const BESIDE: [&str; 6] = ["images", "image", "videos", "video", "audios", "audio"];
/// Types of content parts that are one.
const PARTS: [&str; 10] = [
    "image",
    "image_url",
    "input_image",
    "video",
    "video_url",
    "input_video",
    "audio",
    "audio_url",
    "input_audio",
    "file",
];

const HINT: &str = "hint: `data.media: drop` leaves such records out, `data.media: text` trains on their text alone";

/// Refuses a record that has some beside its texts.
///
/// # Errors
/// Which.
pub(super) fn refuse_beside(fields: &Fields<'_>) -> Result<(), Reject> {
    let Some(name) = fields.first_of(&BESIDE) else { return Ok(()) };
    let detail = format!("it has `{name}`, which a text model does not see\n{HINT}");
    Err(Reject::new(Reason::Media, detail))
}

/// Whether a content part of this type is one.
pub(super) fn is_media(kind: &str) -> bool {
    PARTS.contains(&kind)
}

/// The refusal of a part.
pub(super) fn refused(at: &str, kind: &str) -> Reject {
    let detail = format!("{at} is of the type `{kind}`, which a text model does not see\n{HINT}");
    Reject::new(Reason::Media, detail)
}
