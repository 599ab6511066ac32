//! The ranks of a measurement: threads of one process, each with its own device and compute threads, joined as the
//! ranks of a run are.

use crate::collective::{
    self, AbortHandle, Alone, Collective, Listener, Membership, Options, Paired, Ring,
};
use crate::device;
use crate::devices::{self, Device, Opened};
use anyhow::Context;

/// One rank.
pub(super) struct Rank {
    pub(super) opened: Opened,
    pub(super) collective: Box<dyn Collective>,
}

/// Runs `work` as every rank, each with this number of compute threads; returns the results in the order of ranks.
///
/// # Errors
/// The error of a rank. If there are several, it is not one that another rank caused.
pub(super) fn on_each<T: Send>(
    devices: &[Device],
    threads: usize,
    work: impl Fn(Rank) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).context("the operating system has no random numbers")?;
    let listeners: Vec<Listener> =
        devices.iter().map(|_| Listener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().to_string()).collect();
    let run = |rank: usize, device: &Device, listener: &Listener| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let opened = devices::open(device)?;
            let membership = Membership {
                run: "benchmark".to_owned(),
                generation: 1,
                rank,
                addresses: addresses.clone(),
                key,
                encrypt: false,
            };
            let collective = join(&opened, listener, &membership)?;
            work(Rank { opened, collective })
        })
    };
    let results: Vec<anyhow::Result<T>> = std::thread::scope(|scope| {
        let start = |(rank, (device, listener))| scope.spawn(move || run(rank, device, listener));
        let ranks: Vec<_> = devices.iter().zip(&listeners).enumerate().map(start).collect();
        let join = |rank: std::thread::ScopedJoinHandle<'_, _>| {
            rank.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        ranks.into_iter().map(join).collect()
    });
    let of_peer = |error: &anyhow::Error| error.chain().any(|e| e.is::<collective::Error>());
    let mut done = Vec::with_capacity(results.len());
    let mut failed: Option<anyhow::Error> = None;
    for result in results {
        match result {
            Ok(result) => done.push(result),
            Err(error) if failed.as_ref().is_none_or(of_peer) => failed = Some(error),
            Err(_) => {}
        }
    }
    failed.map_or(Ok(done), Err)
}

fn join(
    opened: &Opened,
    listener: &Listener,
    membership: &Membership,
) -> Result<Box<dyn Collective>, collective::Error> {
    if membership.addresses.len() == 1 {
        return Ok(Box::new(Alone::of(1)));
    }
    let ring = Ring::connect(listener, membership, &Options::default(), AbortHandle::new())?;
    Ok(match opened.kernels.device() {
        device::Device::Cuda(gpu) => Box::new(Paired::new(ring, gpu.clone())?),
        device::Device::Host | device::Device::Rehearsal(_) => Box::new(ring),
    })
}
