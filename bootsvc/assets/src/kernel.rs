//! What a kernel image and the agent say about themselves.

use object::Object;
use object::read::elf::{FileHeader, ProgramHeader};

/// Why a kernel or an agent cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Not a kernel for x86.
    #[error("it is no bootable x86 Linux kernel (bzImage): no boot header")]
    NotKernel,
    /// Built without `CONFIG_EFI_STUB`.
    #[error("it has no EFI stub, so UEFI machines could not start it")]
    NoEfiStub,
    /// Kernel and modules do not belong together.
    #[error("it is release {kernel}, but the modules are for {modules}")]
    Release {
        /// Of the kernel.
        kernel: String,
        /// Of the modules.
        modules: String,
    },
    /// The agent is no ELF program for x86-64.
    #[error("it is no x86-64 program")]
    NotProgram,
    /// The agent wants a dynamic linker, which the ramdisk has not.
    #[error("it is linked dynamically; build it with the target feature crt-static")]
    Dynamic,
}

/// The release of a bzImage, for example `6.1.0-56-amd64`.
///
/// See the kernel's Documentation/arch/x86/boot.rst: "HdrS" at 0x202, at 0x20e the place of
/// the version text, counted from 0x200.
pub(crate) fn release(image: &[u8]) -> Result<String, KernelError> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err(KernelError::NotKernel);
    }
    if !image.starts_with(b"MZ") {
        return Err(KernelError::NoEfiStub);
    }
    let place = image.get(0x20e..0x210).ok_or(KernelError::NotKernel)?;
    let place = usize::from(u16::from_le_bytes([place[0], place[1]])) + 0x200;
    let text = image.get(place..).ok_or(KernelError::NotKernel)?;
    let end = text.iter().take(256).position(|&byte| byte == b' ' || byte == 0);
    let word = text.get(..end.ok_or(KernelError::NotKernel)?).unwrap_or_default();
    String::from_utf8(word.to_vec()).map_err(|_| KernelError::NotKernel)
}

/// Checks that a program runs with nothing but a kernel.
pub(crate) fn check_static(program: &[u8]) -> Result<(), KernelError> {
    let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(program)
        .map_err(|_| KernelError::NotProgram)?;
    if file.architecture() != object::Architecture::X86_64 {
        return Err(KernelError::NotProgram);
    }
    let endian = object::LittleEndian;
    let headers = file.elf_header().program_headers(endian, program);
    let headers = headers.map_err(|_| KernelError::NotProgram)?;
    if headers.iter().any(|header| header.p_type(endian) == object::elf::PT_INTERP) {
        return Err(KernelError::Dynamic);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[..2].copy_from_slice(b"MZ");
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x30f].copy_from_slice(b"6.1.0-test (me)");
        image
    }

    #[test]
    fn reads_the_release() {
        assert_eq!(release(&image()), Ok("6.1.0-test".to_owned()));
        assert_eq!(release(b"ELF"), Err(KernelError::NotKernel));
        let mut old = image();
        old[0] = 0;
        assert_eq!(release(&old), Err(KernelError::NoEfiStub));
    }

    #[test]
    fn only_static_programs_pass() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(check_static(&me), Err(KernelError::Dynamic));
        assert_eq!(check_static(b"#!/bin/sh"), Err(KernelError::NotProgram));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = release(&bytes);
            let _ = check_static(&bytes);
            let mut image = image();
            image[0x206..0x206 + bytes.len().min(0x1fa)].copy_from_slice(&bytes[..bytes.len().min(0x1fa)]);
            let _ = release(&image);
        }
    }
}
