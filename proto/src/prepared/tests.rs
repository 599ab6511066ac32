//! What is written is read back; what is not ours is refused.

use bytes::Bytes;
use safetensors::tensor::{Dtype, TensorView};

use super::*;

fn samples() -> Vec<Sample> {
    let sample = |tokens: &[u32], weights: &[f32], position| Sample {
        tokens: tokens.to_vec(),
        weights: weights.to_vec(),
        hash: 0x1234_5678_9abc_def0 + position,
        position,
    };
    vec![
        sample(&[1, 2, 3], &[0.0, 0.0, 1.0], 1),
        sample(&[7, 8], &[0.0, 0.5], 2),
        sample(&[4, 5, 6, 9], &[0.0, 1.0, 1.0, 0.25], 40),
    ]
}

/// A text's features, and an exchange's.
fn features(n: u8) -> Features {
    let hash = 1000 * u64::from(n);
    let exchange = Exchange { setting: 7, instruction: hash + 1, answer: hash + 2 };
    Features {
        content: hash,
        exchange: (n > 0).then_some(exchange),
        flaws: Flaws { looping: n == 1, incomplete: n > 0 },
        signature: Signature(std::array::from_fn(|place| n.wrapping_mul(31) ^ place as u8)),
    }
}

/// Two records: the first made one sample, the second two.
fn bytes_of(samples: &[Sample]) -> Vec<u8> {
    let mut writer = Writer::new("f00d");
    writer.object(Object { name: "a.json".into(), source: 0, unit: Unit::Record });
    writer.record(features(0));
    writer.push(&samples[0]);
    writer.object(Object { name: "s3://d/7.jsonl".into(), source: 1, unit: Unit::Line });
    writer.record(features(1));
    samples[1..].iter().for_each(|sample| writer.push(sample));
    writer.finish()
}

#[test]
fn shard_gives_back_what_was_written() {
    let samples = samples();
    let shard = Shard::parse(bytes_of(&samples).into()).expect("our own bytes");
    let back: Vec<Sample> = (0..3).filter_map(|i| shard.sample(i)).collect();
    assert_eq!(back, samples);
    assert_eq!(shard.sample(3), None);
    let metas: Vec<Meta> = shard.metas().collect();
    assert_eq!(metas, samples.iter().map(Sample::meta).collect::<Vec<_>>());
    assert_eq!(metas[2].weight, 2.25);
    assert_eq!(Meta::from_bytes(metas[2].to_bytes()), metas[2]);
    assert_eq!(size_of::<Meta>(), Meta::BYTES);
    assert_eq!(shard.origin(0).as_deref(), Some("a.json, record 1"));
    assert_eq!(shard.origin(2).as_deref(), Some("s3://d/7.jsonl, line 40"));
    assert_eq!(shard.object(2).map(|object| object.source), Some(1));
    assert_eq!(shard.fingerprint(), "f00d");
    let targets: Vec<u32> = (0..3).filter_map(|i| shard.targets(i)).collect();
    assert_eq!(targets, [1, 1, 3]);
    assert_eq!((shard.position(0), shard.position(2)), (Some(1), Some(40)));
    let places = [Unit::Record.place(1), Unit::Line.place(40)].map(|place| place.to_string());
    assert_eq!(places, ["record 1", "line 40"]);
}

#[test]
fn shard_gives_back_the_features_of_its_records() {
    let shard = Shard::parse(bytes_of(&samples()).into()).expect("our own bytes");
    assert_eq!(shard.records(), 2);
    let records: Vec<usize> = (0..3).filter_map(|i| shard.record(i)).collect();
    assert_eq!(records, [0, 1, 1]);
    for record in 0..2 {
        let wanted = features(record as u8);
        assert_eq!(shard.content(record), Some(wanted.content));
        assert_eq!(shard.exchange(record), wanted.exchange);
        assert_eq!(shard.flaws(record), Some(wanted.flaws));
        let places = (0..SIGNATURE).map(|place| shard.signatures(place..place + 1)[record]);
        assert!(places.eq(wanted.signature.0));
    }
    let band = shard.signatures(5..7);
    assert_eq!(band, [5, 31 ^ 5, 6, 31 ^ 6]);
    assert_eq!((shard.content(2), shard.exchange(2), shard.flaws(2)), (None, None, None));
}

#[test]
fn equal_samples_give_equal_bytes() {
    assert_eq!(bytes_of(&samples()), bytes_of(&samples()));
}

#[test]
fn shard_without_samples_is_a_shard() {
    let shard = Shard::parse(Writer::new("").finish().into()).expect("an empty shard");
    assert!(shard.is_empty());
}

#[test]
fn every_cut_of_a_shard_is_an_error() {
    let whole = bytes_of(&samples());
    for len in 0..whole.len() {
        let cut = Bytes::copy_from_slice(&whole[..len]);
        let error = Shard::parse(cut).expect_err("a cut shard");
        assert!(matches!(error, Error::NotSafetensors { .. }), "{len}: {error}");
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let whole = bytes_of(&samples());
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            if let Ok(shard) = Shard::parse(bytes.into()) {
                (0..shard.len()).for_each(|i| drop((shard.sample(i), shard.origin(i))));
            }
        }
    }
}

#[test]
fn foreign_and_future_files_are_refused_by_name() {
    let data = [0u8; 4];
    let view = TensorView::new(Dtype::F32, vec![1], &data).expect("4 bytes");
    let foreign = safetensors::serialize([("w", &view)], None).expect("valid");
    let error = Shard::parse(foreign.into()).expect_err("a model's file");
    assert!(error.to_string().contains("no `muster` in its metadata"), "{error}");

    let text = String::from_utf8_lossy(&bytes_of(&samples())).into_owned();
    assert!(text.contains(r#"\"version\":2"#));
    let mut bytes = bytes_of(&samples());
    let at = text.find(r#"\"version\":2"#).expect("found above") + r#"\"version\":"#.len();
    bytes[at] = b'3';
    let error = Shard::parse(bytes.into()).expect_err("a future shard");
    assert!(matches!(error, Error::Version { found: 3 }), "{error}");
}
