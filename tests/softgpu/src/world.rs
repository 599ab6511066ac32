//! The state of the process: devices, memory, handles and the host's clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::clock::{Actor, Clock, HOST};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::stream::Stream;

/// A device that the process can see.
#[derive(Debug)]
pub(crate) struct Device {
    /// Its number in this process.
    pub index: usize,
    /// Its number in the machine.
    pub physical: usize,
    pub uuid: [u8; 16],
    pub pci_bus: u32,
    /// Bytes allocated now.
    pub used: AtomicU64,
    /// How often the primary context is retained.
    pub retained: AtomicU32,
    /// The sticky error of the primary context; 0 for none.
    sticky: AtomicU32,
}

impl Device {
    /// A device without allocations, whose context is not retained.
    pub(crate) fn new(index: usize, physical: usize, uuid: [u8; 16], pci_bus: u32) -> Self {
        Self {
            index,
            physical,
            uuid,
            pci_bus,
            used: AtomicU64::new(0),
            retained: AtomicU32::new(0),
            sticky: AtomicU32::new(0),
        }
    }

    pub(crate) fn sticky(&self) -> Option<u32> {
        match self.sticky.load(Ordering::SeqCst) {
            0 => None,
            code => Some(code),
        }
    }

    /// Sets the sticky error unless there is one.
    pub(crate) fn fail(&self, code: u32) {
        // The first error stays, so a failed exchange needs no answer.
        let _ = self.sticky.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn reset(&self) {
        self.sticky.store(0, Ordering::SeqCst);
        self.used.store(0, Ordering::SeqCst);
    }
}

/// Handles of one kind: numbers that stand for objects.
pub(crate) struct Handles<T> {
    map: RwLock<HashMap<usize, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Handles<T> {
    /// Handles count up from `base`, an address that is never mapped.
    pub(crate) fn with_base(base: u64) -> Self {
        Self { map: RwLock::default(), next: AtomicU64::new(base) }
    }

    pub(crate) fn insert(&self, value: Arc<T>) -> usize {
        let handle = self.next.fetch_add(16, Ordering::Relaxed) as usize;
        self.map.write().unwrap_or_else(PoisonError::into_inner).insert(handle, value);
        handle
    }

    pub(crate) fn find(&self, handle: usize) -> Option<Arc<T>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned()
    }

    pub(crate) fn remove(&self, handle: usize) -> Option<Arc<T>> {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }

    /// Removes what `keep` refuses, and returns it.
    pub(crate) fn retain(&self, keep: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.extract_if(|_, value| !keep(value)).map(|(_, value)| value).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// All state of the process.
pub(crate) struct World {
    pub settings: Settings,
    pub devices: Vec<Arc<Device>>,
    pub initialized: AtomicBool,
    pub streams: Handles<Stream>,
    pub events: Handles<crate::driver::event::Event>,
    pub modules: Handles<crate::driver::module::Module>,
    pub functions: Handles<crate::driver::module::Function>,
    memory: Mutex<Memory>,
    host: Mutex<Clock>,
    next_actor: AtomicU32,
}

/// The state, made at the first call from the environment's settings.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        crate::kernel::stay_loaded();
        let settings = Settings::from_env();
        World {
            devices: crate::driver::device::visible(&settings),
            settings,
            initialized: AtomicBool::new(false),
            streams: Handles::with_base(0x1_0000_1000),
            events: Handles::with_base(0x2_0000_1000),
            modules: Handles::with_base(0x3_0000_1000),
            functions: Handles::with_base(0x4_0000_1000),
            memory: Mutex::default(),
            host: Mutex::default(),
            next_actor: AtomicU32::new(HOST.0 + 1),
        }
    })
}

impl World {
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys what belongs to a device's context: its memory stays mapped, for work that still
    /// runs, but no operation may touch it any more.
    pub(crate) fn destroy_context(&self, device: &Device) {
        for stream in self.streams.retain(|stream| stream.device.index != device.index) {
            stream.close();
        }
        self.events.retain(|event| event.device != device.index);
        self.modules.retain(|module| module.device != device.index);
        self.functions.retain(|function| function.device != device.index);
        self.memory().forget_device(device.index);
        device.reset();
    }

    /// What the host knows.
    pub(crate) fn host_clock(&self) -> Clock {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the host knows these operations to have finished.
    pub(crate) fn host_learns(&self, clock: &Clock) {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).join(clock);
    }

    /// Advances the host's clock for an access of its own.
    pub(crate) fn host_acts(&self) -> (u64, Clock) {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let count = host.tick(HOST);
        (count, host.clone())
    }

    /// A new actor of the clocks.
    pub(crate) fn new_actor(&self) -> Actor {
        Actor(self.next_actor.fetch_add(1, Ordering::Relaxed))
    }
}
