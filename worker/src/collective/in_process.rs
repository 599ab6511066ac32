//! A collective among threads of one process. Ranks put their values into a shared `Hall`, and the last rank to
//! arrive adds them up in rank order. For simulations and tests, so it favours simplicity over avoiding copies.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use half::bf16;

use crate::device::{Buffer, Dtype, WindowMut};

use super::{AbortHandle, Call, Collective, Error, Kind, Pending, check_root, sum};

/// One rank of a collective whose ranks are threads.
#[derive(Debug)]
pub struct InProcess {
    rank: usize,
    calls: u64,
    hall: Arc<Hall>,
    abort: AbortHandle,
}

#[derive(Debug)]
struct Hall {
    stall: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    rounds: BTreeMap<u64, Round>,
    ranks: Vec<Standing>,
    /// The rank that left first; others leave because of it.
    lost: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Here,
    Aborted,
    Left,
}

/// One call, from the first rank's arrival to the last one's departure.
#[derive(Debug)]
struct Round {
    call: Call,
    opened_by: usize,
    given: Vec<Option<Values>>,
    result: Option<Values>,
    still_to_take: usize,
}

#[derive(Debug, Clone)]
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F64(Vec<f64>),
    Nothing,
}

impl InProcess {
    /// The ranks of a world of `world_size`, in rank order; `stall` limits each wait.
    pub fn world(world_size: usize, stall: Duration) -> Vec<Self> {
        let ranks = vec![Standing::Here; world_size];
        let state = Mutex::new(State { rounds: BTreeMap::new(), ranks, lost: None });
        let hall = Arc::new(Hall { stall, state, changed: Condvar::new() });
        (0..world_size).map(|rank| Self::new(rank, hall.clone())).collect()
    }

    fn new(rank: usize, hall: Arc<Hall>) -> Self {
        let abort = AbortHandle::new();
        let weak = Arc::downgrade(&hall);
        abort.on_abort(move || {
            if let Some(hall) = weak.upgrade() {
                hall.stand(rank, Standing::Aborted);
            }
        });
        Self { rank, calls: 0, hall, abort }
    }

    fn give(&mut self, kind: Kind, len: usize, values: Values) -> Result<Call, Error> {
        let call = Call { number: self.calls, kind, len: len as u64 };
        self.calls += 1;
        self.hall.give(self.rank, call, values)?;
        Ok(call)
    }

    fn exchange(&mut self, kind: Kind, len: usize, values: Values) -> Result<Values, Error> {
        let call = self.give(kind, len, values)?;
        self.hall.take(self.rank, call)
    }
}

impl Collective for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.hall.state().ranks.len()
    }

    fn calls(&self) -> u64 {
        self.calls
    }

    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error> {
        let dtype = bucket.dtype();
        let values = match dtype {
            Dtype::F32 => Values::F32(bucket.read().into_owned()),
            Dtype::Bf16 => Values::Bf16(bucket.read().into_owned()),
            Dtype::F64 | Dtype::U32 => panic!("{}", sum::not_summed(dtype)),
        };
        let call = self.give(Kind::Reduce(dtype), bucket.len(), values)?;
        let (rank, hall) = (self.rank, self.hall.clone());
        Ok(Pending::new(move || {
            let mut bucket = bucket;
            match hall.take(rank, call)? {
                Values::F32(sum) => bucket.write(0, &sum),
                Values::Bf16(sum) => bucket.write(0, &sum),
                Values::F64(_) | Values::Nothing => unreachable!("{WRONG_TYPE}"),
            }
            Ok(bucket)
        }))
    }

    fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        let given = Values::F64(values.to_vec());
        let sums = self.exchange(Kind::Control, values.len(), given)?;
        values.copy_from_slice(&sums.into_f64());
        Ok(())
    }

    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error> {
        let values = values.host();
        check_root(root, self.world_size())?;
        let given = if root == self.rank { Values::F32(values.to_vec()) } else { Values::Nothing };
        let kind = Kind::Broadcast { root: root as u32 };
        let received = self.exchange(kind, values.len(), given)?;
        values.copy_from_slice(&received.into_f32());
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.exchange(Kind::Barrier, 0, Values::Nothing).map(drop)
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.hall.stand(self.rank, Standing::Left);
    }
}

impl Hall {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand(&self, rank: usize, standing: Standing) {
        self.state().stand(rank, standing);
        self.changed.notify_all();
    }

    fn give(&self, rank: usize, call: Call, values: Values) -> Result<(), Error> {
        let mut state = self.state();
        if state.ranks[rank] == Standing::Aborted {
            return Err(Error::Aborted);
        }
        let world_size = state.ranks.len();
        let round = state.rounds.entry(call.number).or_insert_with(|| Round {
            call,
            opened_by: rank,
            given: vec![None; world_size],
            result: None,
            still_to_take: world_size,
        });
        if round.call != call {
            let (rank_before, theirs) = (round.opened_by, round.call);
            state.stand(rank, Standing::Left);
            self.changed.notify_all();
            return Err(Error::Mismatch { rank: rank_before, met: None, theirs, ours: call });
        }
        round.given[rank] = Some(values);
        if round.given.iter().all(Option::is_some) {
            round.result = Some(combine(round.given.drain(..).flatten()));
            self.changed.notify_all();
        }
        Ok(())
    }

    fn take(&self, rank: usize, call: Call) -> Result<Values, Error> {
        let until = Instant::now() + self.stall;
        let mut state = self.state();
        loop {
            let State { rounds, ranks, lost } = &mut *state;
            if ranks[rank] == Standing::Aborted {
                return Err(Error::Aborted);
            }
            let round = rounds.get_mut(&call.number).expect("a round lasts until all have taken");
            if let Some(result) = &round.result {
                round.still_to_take -= 1;
                let result = result.clone();
                if round.still_to_take == 0 {
                    rounds.remove(&call.number);
                }
                return Ok(result);
            }
            if ranks[rank] == Standing::Left {
                return Err(Error::Aborted);
            }
            // A rank that leaves an unfinished round breaks it, even if it has already given its values.
            if let Some(rank) = *lost {
                let source = Arc::new(io::ErrorKind::ConnectionAborted.into());
                return Err(Error::Broken { rank, met: None, call: Some(call), source });
            }
            let patience = until.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                let missing = round.given.iter().position(Option::is_none);
                let rank = missing.expect("a round without a result misses a rank");
                return Err(Error::Timeout { rank, met: None, call, stall: self.stall });
            }
            let woken = self.changed.wait_timeout(state, patience);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn stand(&mut self, rank: usize, standing: Standing) {
        self.ranks[rank] = standing;
        self.lost.get_or_insert(rank);
    }
}

/// Sums values in rank order; ranks without values are ignored.
fn combine(given: impl Iterator<Item = Values>) -> Values {
    given.fold(Values::Nothing, |sum, values| match (sum, values) {
        (Values::Nothing, values) | (values, Values::Nothing) => values,
        (Values::F32(sum), Values::F32(values)) => Values::F32(add(sum, &values)),
        (Values::Bf16(sum), Values::Bf16(values)) => Values::Bf16(add(sum, &values)),
        (Values::F64(sum), Values::F64(values)) => Values::F64(add(sum, &values)),
        (Values::F32(_) | Values::Bf16(_) | Values::F64(_), _) => unreachable!("{WRONG_TYPE}"),
    })
}

fn add<T: sum::Addend>(mut sum: Vec<T>, values: &[T]) -> Vec<T> {
    sum::add(&mut sum, values);
    sum
}

/// Why values of another type than expected are a bug here.
const WRONG_TYPE: &str = "a call's kind decides the type of its values";

impl Values {
    fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Bf16(_) | Self::F64(_) | Self::Nothing => unreachable!("{WRONG_TYPE}"),
        }
    }

    fn into_f64(self) -> Vec<f64> {
        match self {
            Self::F64(values) => values,
            Self::F32(_) | Self::Bf16(_) | Self::Nothing => unreachable!("{WRONG_TYPE}"),
        }
    }
}
