//! All that depends on the processor architecture: audit numbers and system call numbers, one table.

/// What the seccomp filter needs to know of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arch {
    /// `AUDIT_ARCH_*` of linux/audit.h, as `seccomp_data.arch` has it.
    pub audit: u32,
    /// System call number of `bind(2)`.
    pub bind: u32,
    /// System call number of `listen(2)`.
    pub listen: u32,
    /// Bit that marks a foreign calling convention within the same audit number (x32 on x86_64), 0 if there is none.
    pub foreign_bit: u32,
}

/// 64-bit x86 (arch/x86/entry/syscalls/syscall_64.tbl).
pub const X86_64: Arch = Arch { audit: 0xc000_003e, bind: 49, listen: 50, foreign_bit: 0x4000_0000 };
/// 64-bit ARM (include/uapi/asm-generic/unistd.h).
pub const AARCH64: Arch = Arch { audit: 0xc000_00b7, bind: 200, listen: 201, foreign_bit: 0 };

/// The architecture that this binary was built for.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: Arch = X86_64;
/// The architecture that this binary was built for.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: Arch = AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("stayput knows the system call numbers of x86_64 and aarch64 only: add a row to kernel/src/arch.rs");

#[cfg(test)]
mod tests {
    use super::{AARCH64, Arch, NATIVE, X86_64};

    #[test]
    fn the_native_row_agrees_with_libc() {
        assert_eq!(i64::from(NATIVE.bind), libc::SYS_bind);
        assert_eq!(i64::from(NATIVE.listen), libc::SYS_listen);
    }

    /// AUDIT_ARCH_* is the ELF machine number with bits for 64 bit and little endian (linux/audit.h).
    fn audit(elf_machine: u16) -> u32 {
        0x8000_0000 | 0x4000_0000 | u32::from(elf_machine)
    }

    #[test]
    fn the_rows_of_other_machines_are_those_of_the_kernel_headers() {
        assert_eq!(X86_64, Arch { audit: audit(libc::EM_X86_64), bind: 49, listen: 50, foreign_bit: 1 << 30 });
        assert_eq!(AARCH64, Arch { audit: audit(libc::EM_AARCH64), bind: 200, listen: 201, foreign_bit: 0 });
    }
}
