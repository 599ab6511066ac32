//! The conformance suite with buckets in the memory of GPUs: with real ones where there are enough, and always with
//! those of the software GPU, in a process of its own.

use super::*;
use crate::collective::conformance::{self, Make, World};
use crate::collective::{AbortHandle, Options, Paired, Pending};
use crate::device::cuda::library::{Driver, Libraries};
use crate::device::cuda::{Gpu, Present, list};
use crate::device::{Buffer, Device, Dtype, WindowMut};
use half::bf16;

/// The most ranks of the suite, each of which has its own GPU.
const GPUS: usize = 5;

/// A collective whose buckets are copied to a GPU and back.
struct OnGpu {
    paired: Paired,
    device: Device,
    ring: Lifeline,
}

impl Collective for OnGpu {
    fn rank(&self) -> usize {
        self.paired.rank()
    }

    fn world_size(&self) -> usize {
        self.paired.world_size()
    }

    fn calls(&self) -> u64 {
        self.paired.calls()
    }

    fn reduce(&mut self, bucket: Buffer) -> Result<Pending, Error> {
        let (device, ring) = (self.device.clone(), self.ring.clone());
        let (dtype, len) = (bucket.dtype(), bucket.len());
        let uploaded = match dtype {
            Dtype::Bf16 => device.upload(bucket.into_vec::<bf16>()),
            _ => device.upload(bucket.into_vec::<f32>()),
        };
        let Device::Cuda(gpu) = &device else { panic!("{device:?}") };
        // Uploading has waited for the GPU. As in training, the bucket is complete only later.
        let on_gpu = device.take(dtype, len);
        gpu.copy(on_gpu.all().address(), uploaded.all().address(), on_gpu.bytes());
        let sum = self.paired.reduce(on_gpu)?;
        Ok(Pending::new(move || {
            let sum = sum.wait()?;
            let sum: Buffer = match sum.dtype() {
                Dtype::Bf16 => sum.read::<bf16>().into_owned().into(),
                _ => sum.read::<f32>().into_owned().into(),
            };
            device.check().expect("the GPU works");
            // The sum is undefined if the ring has ended meanwhile, which the next call would report.
            ring.error().map_or_else(|| Ok(sum), Err)
        }))
    }

    fn control(&mut self, values: &mut [f64]) -> Result<(), Error> {
        self.paired.control(values)
    }

    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), Error> {
        let mut copy = self.device.upload(values.shared().read::<f32>().into_owned());
        self.paired.broadcast(root, copy.all_mut())?;
        values.write::<f32>(&copy.read());
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.paired.barrier()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.paired.abort_handle()
    }
}

/// The driver and its GPUs, if there are enough or ranks may share one.
fn driver() -> Option<(&'static Driver, Libraries, Vec<Present>)> {
    let driver = Driver::load().ok()?;
    let libraries = Libraries::load(driver).ok()?;
    let present = list(driver).ok()?;
    let version = libraries.nccl().ok()?.version();
    let shared = std::env::var_os("NCCL_MULTI_RANK_GPU_ENABLE").is_some_and(|on| on == *"1");
    let enough = present.len() >= GPUS || shared && version >= Version::new(2, 30);
    (enough && !present.is_empty()).then_some((driver, libraries, present))
}

fn on_gpus(size: usize, stall: Duration) -> World {
    let pairs = pairs(size, stall).into_iter();
    let on_gpu = |(paired, device, ring)| Box::new(OnGpu { paired, device, ring }) as _;
    pairs.map(on_gpu).collect()
}

/// Ranks with GPUs.
fn pairs(size: usize, stall: Duration) -> Vec<(Paired, Device, Lifeline)> {
    let (driver, libraries, present) = driver().expect("asked before");
    let rings = rings(size, &Options { stall, ..patient() });
    std::thread::scope(|scope| {
        let join = |(present, ring): (Present, Ring)| {
            let libraries = libraries.clone();
            scope.spawn(move || {
                let gpu = Gpu::open(driver, libraries, &present).expect("the GPU works");
                let (device, ring_end) = (Device::Cuda(gpu.clone()), ring.lifeline());
                let paired = Paired::new(ring, gpu).expect("the ranks join");
                (paired, device, ring_end)
            })
        };
        let threads: Vec<_> = present.into_iter().cycle().zip(rings).map(join).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

macro_rules! on_gpus {
    ($($claim:ident),* $(,)?) => {
        $(#[test]
        fn $claim() {
            const MAKE: Make = on_gpus;
            if driver().is_none() {
                eprintln!("no real GPUs: there are fewer than {GPUS}");
                return;
            }
            conformance::$claim(MAKE);
        })*
    };
}

// Different lengths are not noticed by NCCL, and it names no silent rank.
on_gpus! {
    sums_are_exact_for_every_size_and_world,
    sums_have_the_same_bits_on_every_rank,
    sums_of_bf16_are_exact_for_every_size_and_world,
    sums_of_bf16_have_the_same_bits_on_every_rank,
    buckets_of_both_types_in_flight_come_back_as_launched,
    many_buckets_in_flight_come_back_as_launched,
    control_between_reductions_sums_in_rank_order,
    broadcast_reaches_all_from_every_root,
    barrier_holds_until_all_ranks_have_arrived,
    rank_may_leave_after_its_last_call,
    abort_unblocks_a_waiting_rank_within_a_second,
    abort_of_an_idle_rank_breaks_the_others,
    death_of_a_rank_breaks_all_others_and_is_named,
    dropping_a_rank_during_a_reduction_breaks_the_others,
    calls_are_counted,
}

/// Whether this process has software GPUs.
const CHILD: &str = "MUSTER_TEST_SOFTGPU";

/// Whether tests use this host's GPUs instead; see `tests/gpu.sh`.
fn on_real_gpus() -> bool {
    std::env::var_os("MUSTER_TEST_GPU").is_some()
}

#[test]
fn software_gpus_conform() {
    if on_real_gpus() {
        return eprintln!("only for software GPUs");
    }
    if let Err(why) = softgpu::available() {
        return eprintln!("skipped: there is no software GPU: {why}");
    }
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    for delays in [None, Some(3)] {
        let settings = softgpu::Settings { delays, ..Default::default() };
        let text = in_a_child(&["collective::nccl::tests::gpu::"], "", settings);
        assert!(!text.contains("no real GPUs"), "{text}");
    }
}

/// Runs this program's tests that `filter` selects in a process with software GPUs, called `child`; returns what they
/// print.
fn in_a_child(filter: &[&str], child: &str, settings: softgpu::Settings) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    softgpu::install(folder.path()).expect("links to the software GPU");
    let settings = softgpu::Settings { devices: GPUS, ..settings };
    let output = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(filter)
        .arg("--nocapture")
        .env(CHILD, child)
        .env("MUSTER_CUDA_LIBRARIES", folder.path())
        .envs(settings.envs())
        .output()
        .expect("it starts");
    let text = [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(output.status.success(), "{}", text.concat());
    text.concat()
}

/// Runs `test` in a process in which rank 1 hangs at `place`, once; `name` is the calling test.
fn where_a_rank_hangs(name: &str, place: softgpu::NcclPlace, test: impl FnOnce()) {
    let struck = tempfile::tempdir().expect("a folder");
    let hang = softgpu::Fault::Nccl { rank: 1, place, action: softgpu::NcclAction::Hang };
    let once = Some(struck.path().to_owned());
    with_settings(name, softgpu::Settings { fail: vec![hang], once, ..Default::default() }, test);
}

/// Runs `test` in a process with such software GPUs; `name` is the calling test.
fn with_settings(name: &str, settings: softgpu::Settings, test: impl FnOnce()) {
    if on_real_gpus() {
        return eprintln!("only for software GPUs");
    }
    if let Err(why) = softgpu::available() {
        return eprintln!("skipped: there is no software GPU: {why}");
    }
    match std::env::var_os(CHILD) {
        Some(child) if child == *name => test(),
        Some(_) => {}
        None => drop(in_a_child(&["--exact", name], name, settings)),
    }
}

/// A time limit that a software GPU meets, and for which a test can wait.
const SHORT: Duration = Duration::from_secs(2);

/// The sum of ones over all ranks.
fn sum(rank: &mut dyn Collective) -> Result<f32, Error> {
    let sum = rank.reduce(vec![1.0f32; 4].into())?.wait()?.into_vec::<f32>();
    rank.barrier()?;
    Ok(sum[0])
}

/// The sums of each rank, of which there are up to five, and the error after them.
fn sums_until_failure(world: World) -> Vec<(Vec<f32>, Option<Error>)> {
    let until_failure = |mut rank: Box<dyn Collective>| {
        let mut sums = Vec::new();
        while sums.len() < 5 {
            match sum(&mut *rank) {
                Ok(sum) => sums.push(sum),
                Err(error) => return (sums, Some(error)),
            }
        }
        (sums, None)
    };
    let threads: Vec<_> =
        world.into_iter().map(|rank| std::thread::spawn(move || until_failure(rank))).collect();
    threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

#[test]
fn a_sum_that_hangs_ends_every_rank_in_time_and_the_next_generation_sums() {
    const NAME: &str = "collective::nccl::tests::gpu::\
                        a_sum_that_hangs_ends_every_rank_in_time_and_the_next_generation_sums";
    where_a_rank_hangs(NAME, softgpu::NcclPlace::Collective(3), || {
        let world = on_gpus(2, SHORT);
        let began = Instant::now();
        let ended = sums_until_failure(world);
        assert!(began.elapsed() < SHORT + LONG / 4, "{:?}", began.elapsed());
        let mut unfinished = 0;
        for (rank, (sums, error)) in ended.iter().enumerate() {
            assert_eq!(sums, &[2.0; 2], "rank {rank}: {error:?}");
            match error.as_ref().expect("the third sum hangs") {
                Error::Unfinished { stall, .. } => {
                    assert_eq!(*stall, SHORT);
                    unfinished += 1;
                }
                Error::Broken { rank: lost, .. } => assert_eq!(*lost, 1 - rank),
                other => panic!("rank {rank}: {other}"),
            }
        }
        assert!(unfinished > 0, "{ended:?}");
        for (sums, error) in sums_until_failure(on_gpus(2, SHORT)) {
            assert_eq!(sums, [2.0; 5], "{error:?}");
        }
    });
}

/// Joins the ranks of `ring` as the product does, with other limits.
fn join(ring: &mut Ring, gpu: &std::sync::Arc<Gpu>, limits: Limits) -> Result<(), Error> {
    let library = gpu.libraries().nccl().expect("it is installed");
    let nccl = Nccl::start(ring, **library, gpu.clone(), limits)?;
    let id = if ring.rank() == 0 { Some(nccl.ask(Message::Draw)?) } else { None };
    let id = agreement::agree(ring, library.version(), id.as_ref())?;
    nccl.ask(|joined| Message::Join(id, joined))
}

#[test]
fn joining_that_hangs_ends_every_rank_in_time_and_the_next_generation_joins() {
    const NAME: &str = "collective::nccl::tests::gpu::\
                        joining_that_hangs_ends_every_rank_in_time_and_the_next_generation_joins";
    where_a_rank_hangs(NAME, softgpu::NcclPlace::Init, || {
        let (driver, libraries, present) = driver().expect("software GPUs");
        let gpus: Vec<_> = present[..2]
            .iter()
            .map(|present| Gpu::open(driver, libraries.clone(), present).expect("it works"))
            .collect();
        let generation = || -> Vec<Result<(), Error>> {
            let limits = Limits { join: SHORT, ..PATIENT };
            let rings = rings(2, &patient());
            std::thread::scope(|scope| {
                let member = |(mut ring, gpu)| scope.spawn(move || join(&mut ring, gpu, limits));
                let threads: Vec<_> = rings.into_iter().zip(&gpus).map(member).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            })
        };
        let began = Instant::now();
        let ended = generation();
        assert!(began.elapsed() < SHORT + LONG / 4, "{:?}", began.elapsed());
        let errors = ended.iter().map(|ended| ended.as_ref().expect_err("it hangs").to_string());
        let slow = "ncclCommInitRankConfig did not finish within 2 s";
        assert!(errors.clone().any(|error| error == slow), "{:?}", errors.collect::<Vec<_>>());
        for joined in generation() {
            joined.expect("it hangs once");
        }
    });
}

#[test]
fn memory_of_a_sum_that_nobody_awaits_is_taken_again_after_it() {
    const NAME: &str = "collective::nccl::tests::gpu::\
                        memory_of_a_sum_that_nobody_awaits_is_taken_again_after_it";
    with_settings(NAME, softgpu::Settings { delays: Some(3), ..Default::default() }, || {
        let rank = |(mut paired, device, _ring): (Paired, Device, Lifeline)| {
            let bucket = device.upload(vec![1f32; 1000]);
            let address = bucket.all().address();
            drop(paired.reduce(bucket).expect("it starts"));
            // The software GPU ends the process if this is not ordered after the sum.
            let again = device.zeros(Dtype::F32, 1000);
            assert_eq!(again.all().address(), address, "the same memory");
            assert_eq!(*again.read::<f32>(), [0.0; 1000]);
            paired.barrier().expect("all ranks live");
        };
        let threads: Vec<_> =
            pairs(2, LONG).into_iter().map(|pair| std::thread::spawn(move || rank(pair))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
}

#[test]
fn ranks_on_slices_of_gpus_are_refused() {
    const NAME: &str = "collective::nccl::tests::gpu::ranks_on_slices_of_gpus_are_refused";
    with_settings(NAME, softgpu::Settings { mig: true, ..Default::default() }, || {
        let driver = Driver::load().expect("a driver");
        let libraries = Libraries::load(driver).expect("a complete set");
        let present = list(driver).expect("slices").remove(0);
        let gpu = Gpu::open(driver, libraries, &present).expect("it works");
        for ring in rings(2, &patient()) {
            let refused = Paired::new(ring, gpu.clone()).err().expect("a slice");
            assert!(matches!(refused, Error::Nccl(NcclError::Slice)), "{refused}");
        }
    });
}
