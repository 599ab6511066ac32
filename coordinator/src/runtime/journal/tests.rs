//! Tests of the journal's guarantees on a store with faults.

mod faulty;

use super::*;
use faulty::{Fault, Faulty, Operation};
use proto::event::Fact;
use proto::id::Epoch;
use std::sync::Arc;

const FOLDER: &str = "j";

fn claimed(epoch: u64) -> Fact {
    Fact::Claimed { epoch: Epoch(epoch), holder: None }
}

fn holder(host: &str) -> Holder {
    Holder { token: "t".into(), host: host.into(), url: "http://there:7070".into() }
}

async fn open(storage: &Storage) -> (Journal, Vec<Fact>) {
    let (mut journal, events) = Journal::open(storage, FOLDER.into()).await.unwrap();
    journal.settled_within = Duration::from_millis(200);
    (journal, events)
}

/// A store with the given faults, and the same store without faults.
fn broken(faults: impl FnMut(Operation) -> Fault + Send + 'static) -> (Storage, Storage) {
    let store = Arc::new(Faulty::new(faults));
    (Storage::over(store.clone()), Storage::over(store.unbroken()))
}

/// Injects the faults into the first operations of a kind, one into each.
fn at_first(
    kind: Operation,
    faults: &'static [Fault],
) -> impl FnMut(Operation) -> Fault + Send + 'static {
    let mut left = faults.iter().copied();
    move |operation| {
        if operation == kind { left.next().unwrap_or(Fault::None) } else { Fault::None }
    }
}

#[tokio::test]
async fn a_journal_is_replayed_in_order_however_long_it_is() {
    let storage = Storage::memory();
    let (mut journal, none) = open(&storage).await;
    assert_eq!(none, []);
    for epoch in 0..3 * AHEAD as u64 {
        journal.append(vec![claimed(epoch)]).await.unwrap();
    }
    let all: Vec<_> = (0..3 * AHEAD as u64).map(claimed).collect();
    assert_eq!(open(&storage).await.1, all);
    assert_eq!(read::<Fact>(&storage, FOLDER).await.unwrap(), all);
}

#[tokio::test]
async fn of_two_writers_one_is_deposed_and_learns_the_other_one() {
    let storage = Storage::memory();
    let ((mut one, _), (mut two, _)) = (open(&storage).await, open(&storage).await);
    one.check::<Fact>().await.unwrap();
    let taken = Fact::Claimed { epoch: Epoch(2), holder: Some(holder("other")) };
    two.append(vec![taken.clone()]).await.unwrap();
    two.check::<Fact>().await.unwrap();
    for error in
        [one.check::<Fact>().await.unwrap_err(), one.append(vec![claimed(1)]).await.unwrap_err()]
    {
        let Error::Deposed { by, .. } = &error else { panic!("{error}") };
        assert_eq!(*by, Some(holder("other")));
        let hint = "\nhint: it is on host `other` and answers at http://there:7070";
        assert!(error.to_string().ends_with(hint), "{error}");
    }
    assert_eq!(open(&storage).await.1, [taken]);
}

#[tokio::test]
async fn a_gap_is_an_error() {
    let storage = Storage::memory();
    let (mut journal, _) = open(&storage).await;
    journal.append(vec![claimed(1)]).await.unwrap();
    journal.append(vec![claimed(2)]).await.unwrap();
    storage.delete("j/0000000000.json").await.unwrap();
    let error = Journal::open::<Fact>(&storage, FOLDER.into()).await.err().unwrap();
    let wanted = "the journal entry `memory:/j/0000000000.json` is missing";
    assert!(error.to_string().starts_with(wanted), "{error}");
}

#[tokio::test]
async fn entries_that_a_listing_does_not_show_are_replayed() {
    for stale in [
        &[Fault::Stale(&[0])],
        &[Fault::Stale(&[4])],
        &[Fault::Stale(&[3, 4])],
        &[Fault::Stale(&[1, 2])],
        &[Fault::Stale(&[0, 1, 2, 3, 4])],
    ] {
        let (storage, unbroken) = broken(at_first(Operation::List, stale));
        let (mut journal, _) = open(&unbroken).await;
        for epoch in 0..5 {
            journal.append(vec![claimed(epoch)]).await.unwrap();
        }
        let (mut journal, events) = open(&storage).await;
        assert_eq!(events, (0..5).map(claimed).collect::<Vec<_>>(), "{stale:?}");
        journal.append(vec![claimed(5)]).await.unwrap();
        assert_eq!(open(&unbroken).await.1.len(), 6);
    }
}

#[tokio::test]
async fn an_entry_damaged_in_transit_is_read_again() {
    let (storage, unbroken) = broken(at_first(Operation::Get, &[Fault::Flipped; READS - 1]));
    open(&unbroken).await.0.append(vec![claimed(1)]).await.unwrap();
    assert_eq!(open(&storage).await.1, [claimed(1)]);
}

#[tokio::test]
async fn an_entry_damaged_in_the_store_is_not_replayed() {
    let storage = Storage::memory();
    open(&storage).await.0.append(vec![claimed(1)]).await.unwrap();
    let stored = storage.read("j/0000000000.json").await.unwrap();
    let text = String::from_utf8(stored.to_vec()).unwrap();
    storage.put("j/0000000000.json", text.replace("\"epoch\":1", "\"epoch\":3")).await.unwrap();
    let error = Journal::open::<Fact>(&storage, FOLDER.into()).await.err().unwrap();
    let wanted = "the journal entry `memory:/j/0000000000.json` cannot be used: it is damaged: \
                  its content has another digest";
    assert_eq!(proto::error::chain(&error), wanted);
}

#[tokio::test]
async fn a_completed_write_is_recognized_whatever_the_store_replied() {
    let cases: [(&'static [Fault], &'static [Fault]); 6] = [
        // The request was lost.
        (&[Fault::Lost], &[]),
        // The reply was lost.
        (&[Fault::Unanswered], &[]),
        // The store took the client's own retry for another writer's.
        (&[Fault::Denied], &[]),
        // Reads failed as well.
        (&[Fault::Unanswered], &[Fault::Lost]),
        (&[Fault::Denied, Fault::Lost], &[Fault::Lost, Fault::Lost]),
        // The entry was damaged when it was read back, and looks like another writer's.
        (&[Fault::Denied], &[Fault::Flipped, Fault::Flipped]),
    ];
    for (puts, gets) in cases {
        let (mut put, mut get) = (puts.iter().copied(), gets.iter().copied());
        // The first read finds the journal's end.
        let mut opened = false;
        let (storage, unbroken) = broken(move |operation| match operation {
            Operation::Put => put.next().unwrap_or(Fault::None),
            Operation::Get if std::mem::replace(&mut opened, true) => {
                get.next().unwrap_or(Fault::None)
            }
            Operation::Get | Operation::List => Fault::None,
        });
        let (mut journal, _) = open(&storage).await;
        journal.append(vec![claimed(1)]).await.unwrap();
        journal.append(vec![claimed(2)]).await.unwrap();
        let (_, events) = open(&unbroken).await;
        assert_eq!(events, [claimed(1), claimed(2)], "puts {puts:?}, gets {gets:?}");
    }
}

#[tokio::test]
async fn a_write_that_cannot_be_settled_ends_in_an_error() {
    let mut puts = 0;
    let (storage, unbroken) = broken(move |operation| match operation {
        Operation::List => Fault::None,
        Operation::Get if puts == 0 => Fault::None,
        Operation::Get => Fault::Lost,
        Operation::Put => {
            puts += 1;
            if puts == 1 { Fault::Unanswered } else { Fault::Lost }
        }
    });
    let (mut journal, _) = open(&storage).await;
    let error = journal.append(vec![claimed(1)]).await.unwrap_err();
    assert!(matches!(error, Error::Unsettled { .. }), "{error}");
    let text = proto::error::chain(&error);
    assert!(
        text.starts_with("whether `memory:/j/0000000000.json` was written is unknown"),
        "{text}"
    );
    assert!(text.contains("chance") && text.contains("\nhint: start again"), "{text}");
    // A coordinator that starts again finds the entry.
    assert_eq!(open(&unbroken).await.1, [claimed(1)]);
}

/// Writers open the journal one after another, as coordinators do. None may be deposed, and the journal must contain
/// exactly the acknowledged batches, with or without a batch whose outcome its writer did not learn.
#[tokio::test]
async fn no_entry_is_lost_or_doubled_under_faults() {
    const BATCHES: u64 = 12;
    let (mut unsettled, mut unread) = (0, 0);
    for seed in 0..100 {
        let mut random = faulty::random(seed);
        let (storage, unbroken) = broken(faulty::some_of_all(seed));
        let mut journal = None;
        let mut expected = Vec::new();
        for epoch in 0..BATCHES {
            let mut writer = match journal.take().filter(|_| random(4) > 0) {
                Some(writer) => writer,
                None => loop {
                    match Journal::open::<Fact>(&storage, FOLDER.into()).await {
                        Ok((writer, events)) => {
                            assert_eq!(events, expected, "seed {seed}");
                            break writer;
                        }
                        Err(Error::Storage(_) | Error::Unusable { .. }) => unread += 1,
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                },
            };
            writer.settled_within = Duration::from_millis(30);
            match writer.append(vec![claimed(epoch)]).await {
                Ok(()) => {
                    expected.push(claimed(epoch));
                    journal = Some(writer);
                }
                Err(Error::Unsettled { .. }) => {
                    unsettled += 1;
                    let stored = open(&unbroken).await.1;
                    expected.extend(stored.get(expected.len()).cloned());
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        assert_eq!(open(&unbroken).await.1, expected, "seed {seed}");
    }
    assert!(unsettled > 9 && unread > 9, "too few faults: {unsettled}, {unread}");
}
