//! The source text of all kernels, which are compiled as one program. The software GPU of the tests includes this file.

/// The kernels, as one program.
pub const SOURCE: &str = concat!(
    "#line 1 \"common.cu\"\n",
    include_str!("common.cu"),
    "#line 1 \"elementwise.cu\"\n",
    include_str!("elementwise.cu"),
    "#line 1 \"rows.cu\"\n",
    include_str!("rows.cu"),
    "#line 1 \"norm.cu\"\n",
    include_str!("norm.cu"),
    "#line 1 \"heads.cu\"\n",
    include_str!("heads.cu"),
    "#line 1 \"attention.cu\"\n",
    include_str!("attention.cu"),
    "#line 1 \"loss.cu\"\n",
    include_str!("loss.cu"),
    "#line 1 \"optimizer.cu\"\n",
    include_str!("optimizer.cu"),
);
