//! All that depends on the processor architecture: audit numbers and system call numbers, one table.
//!
//! A processor has more than one calling convention: a 64-bit one executes 32-bit programs as well, and even a 64-bit program may call as
//! a 32-bit one does (`int 0x80`). A listener that was bound by any of them is a listener.

/// One calling convention: how a program that uses it asks for `bind` and `listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convention {
    /// `AUDIT_ARCH_*` of linux/audit.h, as `seccomp_data.arch` has it.
    pub audit: u32,
    /// System call number of `bind(2)`, as `seccomp_data.nr` has it.
    pub bind: u32,
    /// System call number of `listen(2)`.
    pub listen: u32,
    /// System call number of `socketcall(2)`, through which older 32-bit programs do both, if there is one.
    pub socketcall: Option<u32>,
}

/// First argument of `socketcall(2)` that means `bind` (linux/net.h).
pub const SOCKETCALL_BIND: u32 = 2;
/// First argument of `socketcall(2)` that means `listen`.
pub const SOCKETCALL_LISTEN: u32 = 4;

/// Bit in a system call number that marks the x32 convention (`__X32_SYSCALL_BIT`, asm/unistd.h). It has the audit number of x86_64.
pub const X32: u32 = 0x4000_0000;

/// 64-bit x86 with x32 and i386 (arch/x86/entry/syscalls/syscall_64.tbl, syscall_32.tbl).
pub const X86_64: &[Convention] = &[
    Convention { audit: 0xc000_003e, bind: 49, listen: 50, socketcall: None },
    Convention { audit: 0xc000_003e, bind: X32 + 49, listen: X32 + 50, socketcall: None },
    Convention { audit: 0x4000_0003, bind: 361, listen: 363, socketcall: Some(102) },
];
/// 64-bit ARM with 32-bit ARM (scripts/syscall.tbl, arch/arm/tools/syscall.tbl; the EABI has no `socketcall`).
pub const AARCH64: &[Convention] = &[
    Convention { audit: 0xc000_00b7, bind: 200, listen: 201, socketcall: None },
    Convention { audit: 0x4000_0028, bind: 282, listen: 284, socketcall: None },
];

/// The architecture that this binary was built for; its own convention is the first.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: &[Convention] = X86_64;
/// The architecture that this binary was built for; its own convention is the first.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: &[Convention] = AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("stayput knows the system call numbers of x86_64 and aarch64 only: add a row to kernel/src/arch.rs");

#[cfg(test)]
mod tests {
    use super::{AARCH64, Convention, NATIVE, X86_64};

    #[test]
    fn the_native_row_agrees_with_libc() {
        assert_eq!(i64::from(NATIVE[0].bind), libc::SYS_bind);
        assert_eq!(i64::from(NATIVE[0].listen), libc::SYS_listen);
    }

    /// AUDIT_ARCH_* is the ELF machine number with bits for 64 bit and little endian (linux/audit.h).
    fn audit(elf_machine: u16, bits: u8) -> u32 {
        0x4000_0000 | (u32::from(bits == 64) << 31) | u32::from(elf_machine)
    }

    #[test]
    fn the_rows_are_those_of_the_kernel_headers() {
        let row = |elf_machine, bits, bind, listen, socketcall| Convention { audit: audit(elf_machine, bits), bind, listen, socketcall };
        let x32 = 1 << 30;
        assert_eq!(
            X86_64,
            [
                row(libc::EM_X86_64, 64, 49, 50, None),
                row(libc::EM_X86_64, 64, x32 + 49, x32 + 50, None),
                row(libc::EM_386, 32, 361, 363, Some(102)),
            ]
        );
        assert_eq!(AARCH64, [row(libc::EM_AARCH64, 64, 200, 201, None), row(libc::EM_ARM, 32, 282, 284, None)]);
    }
}
