//! The functions that `-fsanitize=thread` calls for the compiler's own atomics.
//!
//! All threads of a launch share one thread of the host, so plain loads and stores are atomic.

use std::ffi::{c_int, c_void};

use super::hooks::atomic;

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_thread_fence(_order: c_int) {}

#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_signal_fence(_order: c_int) {}

macro_rules! update {
    ($($name:ident, $type:ty, |$old:ident, $operand:ident| $new:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(at: *mut $type, $operand: $type, _order: c_int) -> $type {
            atomic(at.cast::<c_void>(), size_of::<$type>() as u64);
            // SAFETY: the hook has checked the address.
            let $old = unsafe { at.read() };
            let new = $new;
            // SAFETY: as above.
            unsafe { at.write(new) };
            $old
        }
    )*};
}

update! {
    __tsan_atomic32_exchange, u32, |old, operand| operand;
    __tsan_atomic32_fetch_add, u32, |old, operand| old.wrapping_add(operand);
    __tsan_atomic32_fetch_sub, u32, |old, operand| old.wrapping_sub(operand);
    __tsan_atomic32_fetch_and, u32, |old, operand| old & operand;
    __tsan_atomic32_fetch_or, u32, |old, operand| old | operand;
    __tsan_atomic32_fetch_xor, u32, |old, operand| old ^ operand;
    __tsan_atomic64_exchange, u64, |old, operand| operand;
    __tsan_atomic64_fetch_add, u64, |old, operand| old.wrapping_add(operand);
    __tsan_atomic64_fetch_sub, u64, |old, operand| old.wrapping_sub(operand);
    __tsan_atomic64_fetch_and, u64, |old, operand| old & operand;
    __tsan_atomic64_fetch_or, u64, |old, operand| old | operand;
    __tsan_atomic64_fetch_xor, u64, |old, operand| old ^ operand;
}

macro_rules! plain {
    ($($load:ident, $store:ident, $compare:ident, $type:ty;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $load(at: *mut $type, _order: c_int) -> $type {
            atomic(at.cast::<c_void>(), size_of::<$type>() as u64);
            // SAFETY: the hook has checked the address.
            unsafe { at.read() }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $store(at: *mut $type, value: $type, _order: c_int) {
            atomic(at.cast::<c_void>(), size_of::<$type>() as u64);
            // SAFETY: the hook has checked the address.
            unsafe { at.write(value) }
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $compare(
            at: *mut $type,
            expected: *mut $type,
            value: $type,
            _order: c_int,
            _order_of_failure: c_int,
        ) -> c_int {
            atomic(at.cast::<c_void>(), size_of::<$type>() as u64);
            // SAFETY: the hook has checked the address; the expected value lies on the stack.
            unsafe {
                let old = at.read();
                let equal = old == expected.read();
                if equal {
                    at.write(value);
                } else {
                    expected.write(old);
                }
                c_int::from(equal)
            }
        }
    )*};
}

plain! {
    __tsan_atomic32_load, __tsan_atomic32_store, __tsan_atomic32_compare_exchange_strong, u32;
    __tsan_atomic64_load, __tsan_atomic64_store, __tsan_atomic64_compare_exchange_strong, u64;
}
