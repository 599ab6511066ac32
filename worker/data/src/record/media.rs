//! Images, videos and sounds, which text models do not read.

use proto::receipt::Reason;

use super::Reject;
use super::fields::Fields;

/// The columns that hold media beside a conversation.
const BESIDE: [&str; 6] = ["images", "image", "videos", "video", "audios", "audio"];
/// The types of content parts that are media.
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

/// Refuses a record that has media beside its texts.
///
/// # Errors
/// A record with media; the error names their column.
pub(super) fn refuse_beside(fields: &Fields<'_>) -> Result<(), Reject> {
    let Some(name) = fields.first_of(&BESIDE) else { return Ok(()) };
    let detail = format!("it has `{name}`, which a text model does not see\n{HINT}");
    Err(Reject::new(Reason::Media, detail))
}

/// Whether a content part of this type is media.
pub(super) fn is_media(kind: &str) -> bool {
    PARTS.contains(&kind)
}

/// The error for a content part that is media.
pub(super) fn refused(at: &str, kind: &str) -> Reject {
    let detail = format!("{at} is of the type `{kind}`, which a text model does not see\n{HINT}");
    Reject::new(Reason::Media, detail)
}
