//! Shards round-trip, and invalid shards are refused.

use std::ops::Range;

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

/// Features of record `n`. Record 0 is plain text without an exchange.
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

/// A writer with two records: the first has one sample, the second two.
fn writer_of(samples: &[Sample]) -> Writer {
    let mut writer = Writer::new("f00d");
    writer.object(Object { name: "a.json".into(), source: 0, unit: Unit::Record });
    writer.record(features(0));
    writer.push(&samples[0]);
    writer.object(Object { name: "s3://d/7.jsonl".into(), source: 1, unit: Unit::Line });
    writer.record(features(1));
    samples[1..].iter().for_each(|sample| writer.push(sample));
    writer
}

fn bytes_of(samples: &[Sample]) -> Vec<u8> {
    writer_of(samples).finish()
}

#[test]
fn samples_round_trip() {
    let samples = samples();
    let shard = Shard::parse(bytes_of(&samples).into()).expect("our own bytes");
    let sample = |index| shard.sample(index).expect("valid weights");
    let back: Vec<Sample> = (0..3).filter_map(sample).collect();
    assert_eq!(back, samples);
    assert_eq!(sample(3), None);
    let metas: Vec<Meta> = shard.front().metas().collect();
    assert_eq!(metas, samples.iter().map(Sample::meta).collect::<Vec<_>>());
    assert_eq!(metas[2].weight, 2.25);
    assert_eq!(Meta::from_bytes(metas[2].to_bytes()), metas[2]);
    assert_eq!(size_of::<Meta>(), Meta::BYTES);
    assert_eq!(shard.origin(0).as_deref(), Some("a.json, record 1"));
    assert_eq!(shard.origin(2).as_deref(), Some("s3://d/7.jsonl, line 40"));
    let front = shard.front();
    assert_eq!(front.object(2).map(|object| object.source), Some(1));
    assert_eq!(front.fingerprint(), "f00d");
    let targets: Vec<u32> = (0..3).filter_map(|i| front.targets(i)).collect();
    assert_eq!(targets, [1, 1, 3]);
    assert_eq!((front.position(0), front.position(2)), (Some(1), Some(40)));
    let places = [Unit::Record.place(1), Unit::Line.place(40)].map(|place| place.to_string());
    assert_eq!(places, ["record 1", "line 40"]);
}

#[test]
fn features_of_records_round_trip() {
    let whole = bytes_of(&samples());
    let shard = Front::parse(whole.clone().into()).expect("our own bytes");
    let at = |range: Range<u64>| range.start as usize..range.end as usize;
    assert_eq!(shard.records(), 2);
    let records: Vec<usize> = (0..3).filter_map(|i| shard.record(i)).collect();
    assert_eq!(records, [0, 1, 1]);
    for (record, wanted) in [features(0), features(1)].into_iter().enumerate() {
        assert_eq!(shard.content(record), Some(wanted.content));
        assert_eq!(shard.exchange(record), wanted.exchange);
        assert_eq!(shard.flaws(record), Some(wanted.flaws));
        let place = |place| at(shard.signatures(place..place + 1)).start + record;
        assert!((0..SIGNATURE).map(|p| whole[place(p)]).eq(wanted.signature.0));
    }
    let band = &whole[at(shard.signatures(5..7))];
    assert_eq!(band, [5, 31 ^ 5, 6, 31 ^ 6]);
    assert_eq!((shard.content(2), shard.exchange(2), shard.flaws(2)), (None, None, None));
}

#[test]
fn positions_can_be_counted_from_the_start_of_the_object() {
    let shard = Shard::parse(bytes_of(&samples()).into()).expect("our own bytes");
    let shard = shard.starting_after(100);
    assert_eq!(shard.origin(2).as_deref(), Some("s3://d/7.jsonl, line 140"));
    let sample = shard.sample(1).expect("valid weights").expect("the second of three");
    assert_eq!(sample.position, 102);
}

#[test]
fn the_front_needs_no_byte_of_tokens_or_signatures() {
    let whole = bytes_of(&samples());
    let mut read = 0;
    loop {
        let needed = Front::needs(&whole[..read]).expect("our own bytes") as usize;
        if needed <= read {
            break;
        }
        read = needed;
    }
    let tokens_and_weights = 2 * 4 * samples().iter().map(|s| s.tokens.len()).sum::<usize>();
    assert_eq!(read, whole.len() - tokens_and_weights - 2 * SIGNATURE);
    let front = Front::parse(Bytes::copy_from_slice(&whole[..read])).expect("a whole front");
    let shard = Shard::parse(whole.into()).expect("our own bytes");
    assert!(front.metas().eq(shard.front().metas()));
    assert_eq!(front.origin(2), shard.origin(2));
}

#[test]
fn the_safetensors_library_reads_every_tensor() {
    let whole = bytes_of(&samples());
    let tensors = safetensors::SafeTensors::deserialize(&whole).expect("a safetensors file");
    let tokens = tensors.tensor("tokens").expect("there are tokens");
    let numbers: Vec<u8> = tokens.data().iter().step_by(4).copied().collect();
    assert_eq!((tokens.dtype(), numbers), (Dtype::U32, vec![1, 2, 3, 7, 8, 4, 5, 6, 9]));
    assert_eq!(tensors.len(), 15);
}

#[test]
fn equal_samples_have_equal_bytes() {
    assert_eq!(bytes_of(&samples()), bytes_of(&samples()));
}

#[test]
fn size_is_known_before_the_shard_is_written() {
    let writer = writer_of(&samples());
    let (announced, whole) = (writer.bytes(), writer.finish());
    let (_, contents) = safetensors::SafeTensors::read_metadata(&whole).expect("our own bytes");
    assert_eq!(announced, contents.data_len());
}

#[test]
fn a_shard_without_samples_is_valid() {
    let shard = Shard::parse(Writer::new("").finish().into()).expect("an empty shard");
    assert!(shard.is_empty());
}

#[test]
fn every_truncation_of_a_shard_is_refused() {
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
                drop(shard.front().metas().collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn foreign_files_and_newer_versions_are_refused() {
    let data = [0u8; 4];
    let view = TensorView::new(Dtype::F32, vec![1], &data).expect("4 bytes");
    let foreign = safetensors::serialize([("w", &view)], None).expect("valid");
    let error = Shard::parse(foreign.into()).expect_err("a model's file");
    assert!(error.to_string().contains("no `muster` in its metadata"), "{error}");

    let text = String::from_utf8_lossy(&bytes_of(&samples())).into_owned();
    let mut bytes = bytes_of(&samples());
    let at = text.find(r#"\"version\":4"#).expect("our version") + r#"\"version\":"#.len();
    bytes[at] = b'5';
    let error = Shard::parse(bytes.into()).expect_err("a future shard");
    assert!(matches!(error, Error::Version { found: 5 }), "{error}");
}
