//! Opens shared libraries, and looks up the tables of C functions that `functions!` declares.
//!
//! ```text
//! functions! { fn cuInit(flags: c_uint) -> c_int; }   declares  struct Functions { cuInit, .. }
//! Opened::open("/x/libcuda.so.1")  ->  Functions::look_up  ->  (functions.cuInit)(0)
//! ```
//!
//! Tables declare status results as plain integers. As Rust enums, the codes that a later release
//! adds would be undefined behavior.

use super::reason::Reason;
use super::version::Version;
use libloading::os::unix::{self, RTLD_LOCAL, RTLD_NOW};
use std::error::Error as _;
use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Declares `Functions`, the table of the C functions used from one library. Functions marked
/// `optional` are absent in NVIDIA's libraries; tests provide them.
macro_rules! functions {
    (
        $(fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty;)*
        $(optional fn $extra:ident($($extra_argument:ident: $extra_type:ty),* $(,)?);)*
    ) => {
        /// Functions of the library, under their C names.
        #[derive(Clone, Copy)]
        #[allow(non_snake_case, missing_docs, reason = "the library's documentation has them")]
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($argument: $type),*) -> $result,)*
            $(pub $extra: Option<unsafe extern "C" fn($($extra_argument: $extra_type),*)>,)*
        }

        impl super::functions::Lookup for Functions {
            #[cfg(test)]
            const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            fn look_up(
                library: &super::functions::Opened,
            ) -> Result<Self, super::reason::Reason> {
                Ok(Self {
                    // SAFETY: the declaration has the types of the library's header.
                    $($name: unsafe { library.function(stringify!($name)) }?,)*
                    // SAFETY: as above.
                    $($extra: unsafe { library.function(stringify!($extra)) }.ok(),)*
                })
            }
        }
    };
}
pub(super) use functions;

/// A table that `functions!` declared.
pub(super) trait Lookup: Sized {
    /// The names of the functions that a library must have.
    #[cfg(test)]
    const NAMES: &'static [&'static str];

    /// Looks up every function in `library`.
    fn look_up(library: &Opened) -> Result<Self, Reason>;
}

/// What is known of a library besides its functions.
pub(super) trait Table: Lookup {
    /// The oldest version with everything that is used.
    const MINIMUM: Version;
    /// The function that returns the version, which every release has.
    const VERSION_FUNCTION: &'static str;

    /// Asks `library` for its version.
    fn version(library: &Opened) -> Result<Version, Reason>;
}

/// A loaded library, which dereferences to the table of its functions.
pub struct Library<F> {
    functions: F,
    version: Version,
    file: PathBuf,
    /// Keep the code behind `functions` mapped.
    _opened: Vec<Opened>,
}

impl<F> Library<F> {
    /// The version that the library states.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file that the library was loaded from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Keeps `companion` open for as long as this library.
    pub(super) fn with(mut self, companion: Option<Opened>) -> Self {
        self._opened.extend(companion);
        self
    }

    /// Keeps the library until the process ends: CUDA's libraries start threads and register exit
    /// handlers, which do not survive unloading.
    pub(super) fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    /// Opens `path`, a file or a name for the dynamic loader. The version is read first, because
    /// an old library lacks functions too, and its age is the better explanation.
    pub(super) fn open(path: &Path) -> Result<Self, Reason>
    where
        F: Table,
    {
        let mut opened = Opened::open(path)?;
        opened.locate(F::VERSION_FUNCTION)?;
        let version = F::version(&opened)?;
        let file = opened.path.clone();
        if version < F::MINIMUM {
            return Err(Reason::Old { file, version, minimum: F::MINIMUM });
        }
        Ok(Self { functions: F::look_up(&opened)?, version, file, _opened: vec![opened] })
    }
}

impl<F> Deref for Library<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.functions
    }
}

impl<F> fmt::Debug for Library<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.file.display(), self.version)
    }
}

/// An open shared library, closed when it is dropped.
pub(super) struct Opened {
    handle: unix::Library,
    path: PathBuf,
}

impl Opened {
    /// Opens `path`, a file or a name for the dynamic loader.
    ///
    /// `RTLD_NOW` makes a dependency without a needed symbol an error here: bound lazily, its first
    /// use would end the process. `RTLD_LOCAL` keeps two releases in one process apart.
    pub(super) fn open(path: &Path) -> Result<Self, Reason> {
        // SAFETY: opening runs the file's initializers. It has the name of one of NVIDIA's
        // libraries and lies in a place that its user or administrator set up for them, so it is
        // trusted as much as a library that a program is linked with.
        let opened = unsafe { unix::Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        match opened {
            Ok(handle) => Ok(Self { handle, path: path.to_owned() }),
            Err(error) => Err(unopened(path, &error)),
        }
    }

    /// Opens the library called `name` that lies beside this one, or else the one that the dynamic
    /// loader finds.
    pub(super) fn open_beside(file: &Path, name: &str) -> Result<Self, Reason> {
        match Self::open(&file.with_file_name(name)) {
            Err(Reason::Absent { .. }) => Self::open(Path::new(name)),
            result => result,
        }
    }

    /// The address of a function, as a function pointer.
    ///
    /// # Errors
    /// [`Reason::Symbol`] if the library does not have the function.
    ///
    /// # Safety
    /// `T` must be the type of a pointer to the C function called `name`.
    pub(super) unsafe fn function<T: Copy>(&self, name: &'static str) -> Result<T, Reason> {
        const { assert!(size_of::<T>() == size_of::<*mut c_void>()) };
        let address = self.address(name)?;
        // SAFETY: the sizes are equal, the address is not null, and the caller vouches for the
        // type.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, T>(&address) })
    }

    /// `Ok` if `status` is zero, which is success in all of CUDA's libraries.
    pub(super) fn check(&self, function: &'static str, status: c_int) -> Result<(), Reason> {
        if status == 0 {
            return Ok(());
        }
        Err(Reason::Status { file: self.path.clone(), function, status })
    }

    fn address(&self, name: &'static str) -> Result<*mut c_void, Reason> {
        // SAFETY: the symbol is only read as an address, whatever it is.
        let symbol = unsafe { self.handle.get::<*mut c_void>(name) };
        match symbol {
            Ok(symbol) if !symbol.is_null() => Ok(*symbol),
            _ => Err(Reason::Symbol { file: self.path.clone(), symbol: name }),
        }
    }

    /// Replaces a name that the dynamic loader resolved with the file's path.
    fn locate(&mut self, function: &'static str) -> Result<(), Reason> {
        let address = self.address(function)?;
        // SAFETY: `Dl_info` consists of pointers, for which zeros are valid.
        let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: `dladdr` accepts any address, and `found` may be written.
        let known = unsafe { libc::dladdr(address, &mut found) };
        if known != 0 && !found.dli_fname.is_null() {
            // SAFETY: the loader's path of an open library ends with a zero and lives as long as
            // the library.
            let path = unsafe { CStr::from_ptr(found.dli_fname) };
            self.path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
        }
        Ok(())
    }
}

/// The reason for which the loader did not open `path`.
fn unopened(path: &Path, error: &libloading::Error) -> Reason {
    let message = match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    };
    let name = format!("{}: ", path.display());
    // The loader's message begins with the name of what it could not open, which can be a library
    // that `path` depends on.
    match message.strip_prefix(&name) {
        // The loader says so of a file for another kind of processor, too.
        Some(rest) if rest.ends_with("No such file or directory") && path.is_file() => {
            let message = "it is for another kind of processor".to_owned();
            Reason::Unopened { file: path.to_owned(), message }
        }
        Some(rest) if rest.ends_with("No such file or directory") => {
            Reason::Absent { name: path.to_owned() }
        }
        Some(rest) => Reason::Unopened { file: path.to_owned(), message: rest.to_owned() },
        None => Reason::Unopened { file: path.to_owned(), message },
    }
}
