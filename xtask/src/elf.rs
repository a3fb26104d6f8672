//! Parses what the sizes of eBPF programs depend on in an ELF object: functions,
//! their instructions and stack, and the call graph.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// Bytes of one instruction.
const INSTRUCTION_BYTES: usize = 8;
/// `call` of the instruction set; with source 1 the callee is a function of
/// the same object.
const OPCODE_CALL: u8 = 0x85;
const SOURCE_LOCAL_CALL: u8 = 1;
const OPCODE_MOVE: u8 = 0xbf;
const OPCODE_ADD_IMMEDIATE: u8 = 0x07;
const CLASS_LOAD: u8 = 1;
const CLASS_STORE_IMMEDIATE: u8 = 2;
const CLASS_STORE: u8 = 3;
/// The frame pointer.
const FRAME: u8 = 10;
const SECTION_EXECUTABLE: u64 = 4;
const SECTION_TYPE_SYMBOLS: u32 = 2;
const SECTION_TYPE_RELOCATIONS: u32 = 9;
const SYMBOL_TYPE_FUNCTION: u8 = 2;

/// Size of a program and of the subprograms that it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Number of instructions that the kernel loads.
    pub instructions: u64,
    /// The deepest chain of frames, in bytes.
    pub stack_bytes: u64,
}

/// Name and size of every program in the object.
pub fn program_sizes(bytes: &[u8]) -> Result<BTreeMap<String, Size>> {
    let object = Object::read(bytes)?;
    let programs = object.functions.iter().filter(|function| object.is_program(function));
    programs.map(|function| Ok((function.name.clone(), object.size(function)?))).collect()
}

struct Section {
    name: String,
    kind: u32,
    flags: u64,
    offset: usize,
    size: usize,
    link: usize,
    info: usize,
}

struct Function {
    name: String,
    section: usize,
    /// Bytes from the start of its section.
    start: u64,
    instructions: Vec<Instruction>,
}

#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

struct Object {
    sections: Vec<Section>,
    functions: Vec<Function>,
    /// Call (section, offset in bytes) to symbol of the callee (section, offset
    /// in bytes).
    relocations: BTreeMap<(usize, u64), (usize, u64)>,
}

impl Object {
    fn read(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF object");
        let sections = read_sections(bytes)?;
        let mut object = Self { sections, functions: Vec::new(), relocations: BTreeMap::new() };
        object.read_functions(bytes)?;
        object.read_relocations(bytes)?;
        Ok(object)
    }

    fn read_functions(&mut self, bytes: &[u8]) -> Result<()> {
        let symbols = self.sections.iter().find(|section| section.kind == SECTION_TYPE_SYMBOLS);
        let symbols = symbols.context("the object has no symbols")?;
        for index in 0..symbols.size / 24 {
            let symbol = read_symbol(bytes, symbols.offset, index)?;
            if symbol.kind != SYMBOL_TYPE_FUNCTION || !self.is_executable(symbol.section) {
                continue;
            }
            let names = self.sections.get(symbols.link).context("the symbols have no names")?;
            let start = self.sections[symbol.section].offset + usize::try_from(symbol.value)?;
            let code = slice(bytes, start, usize::try_from(symbol.size)?)?;
            self.functions.push(Function {
                name: text(bytes, names.offset + symbol.name)?,
                section: symbol.section,
                start: symbol.value,
                instructions: code.chunks_exact(INSTRUCTION_BYTES).map(Instruction::read).collect(),
            });
        }
        Ok(())
    }

    fn read_relocations(&mut self, bytes: &[u8]) -> Result<()> {
        for section in self.sections.iter().filter(|section| section.kind == SECTION_TYPE_RELOCATIONS) {
            let symbols = self.sections.get(section.link).context("relocations without symbols")?;
            for index in 0..section.size / 16 {
                let offset = section.offset + index * 16;
                let symbol = usize::try_from(u64_at(bytes, offset + 8)? >> 32)?;
                let symbol = read_symbol(bytes, symbols.offset, symbol)?;
                self.relocations
                    .insert((section.info, u64_at(bytes, offset)?), (symbol.section, symbol.value));
            }
        }
        Ok(())
    }

    fn is_executable(&self, section: usize) -> bool {
        self.sections.get(section).is_some_and(|section| section.flags & SECTION_EXECUTABLE != 0)
    }

    /// Subprograms are in `.text`, programs in sections named after their hook.
    fn is_program(&self, function: &Function) -> bool {
        self.sections[function.section].name != ".text"
    }

    fn size(&self, program: &Function) -> Result<Size> {
        let mut reached = BTreeMap::new();
        let stack_bytes = self.walk(program, &mut reached, 0)?;
        Ok(Size { instructions: reached.values().sum(), stack_bytes })
    }

    /// Adds the function and all it calls to `reached`; returns the depth of the
    /// stack in bytes.
    fn walk(
        &self,
        function: &Function,
        reached: &mut BTreeMap<(usize, u64), u64>,
        depth: usize,
    ) -> Result<u64> {
        // MAX_CALL_FRAMES of the kernel's verifier.
        ensure!(depth < 8, "the call chain to {} has more than 8 frames", function.name);
        reached.insert((function.section, function.start), function.instructions.len() as u64);
        let mut deepest = 0;
        for callee in self.callees(function)? {
            deepest = deepest.max(self.walk(callee, reached, depth + 1)?);
        }
        Ok(function.frame_bytes() + deepest)
    }

    fn callees(&self, function: &Function) -> Result<Vec<&Function>> {
        let calls =
            function.instructions.iter().enumerate().filter(|(_, instruction)| instruction.is_local_call());
        calls.map(|(index, instruction)| self.callee(function, index as u64, instruction)).collect()
    }

    fn callee(&self, function: &Function, index: u64, call: &Instruction) -> Result<&Function> {
        let offset = function.start + index * INSTRUCTION_BYTES as u64;
        let relative = i64::from(call.immediate) + 1;
        let (section, target) = match self.relocations.get(&(function.section, offset)) {
            Some((section, value)) => {
                (*section, i64::try_from(*value)? + relative * INSTRUCTION_BYTES as i64)
            }
            None => (function.section, i64::try_from(offset)? + relative * INSTRUCTION_BYTES as i64),
        };
        let found =
            self.functions.iter().find(|other| other.section == section && other.start as i64 == target);
        found.with_context(|| format!("{} calls offset {target}, which is not a function", function.name))
    }
}

impl Function {
    /// Bytes of stack: the lowest offset from the frame pointer that is accessed.
    fn frame_bytes(&self) -> u64 {
        let mut lowest = 0;
        let mut frame_copies = [false; 16];
        for instruction in &self.instructions {
            lowest = lowest.min(instruction.frame_offset(&frame_copies));
            instruction.track_frame_copies(&mut frame_copies);
        }
        lowest.unsigned_abs().next_multiple_of(8)
    }
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        Self {
            opcode: bytes[0],
            destination: bytes[1] & 0xf,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    fn is_local_call(&self) -> bool {
        self.opcode == OPCODE_CALL && self.source == SOURCE_LOCAL_CALL
    }

    /// The offset from the frame pointer that it accesses (0 or negative), in bytes.
    fn frame_offset(&self, frame_copies: &[bool; 16]) -> i64 {
        let base = match self.opcode & 7 {
            CLASS_LOAD => self.source,
            CLASS_STORE | CLASS_STORE_IMMEDIATE => self.destination,
            _ if self.opcode == OPCODE_ADD_IMMEDIATE && frame_copies[usize::from(self.destination)] => {
                return i64::from(self.immediate).min(0);
            }
            _ => return 0,
        };
        if base == FRAME { i64::from(self.offset).min(0) } else { 0 }
    }

    fn track_frame_copies(&self, frame_copies: &mut [bool; 16]) {
        let writes_register = !matches!(self.opcode & 7, CLASS_STORE | CLASS_STORE_IMMEDIATE);
        if writes_register {
            frame_copies[usize::from(self.destination)] = self.opcode == OPCODE_MOVE && self.source == FRAME;
        }
    }
}

struct Symbol {
    name: usize,
    kind: u8,
    section: usize,
    value: u64,
    size: u64,
}

fn read_symbol(bytes: &[u8], table: usize, index: usize) -> Result<Symbol> {
    let offset = table + index * 24;
    Ok(Symbol {
        name: u32_at(bytes, offset)? as usize,
        kind: slice(bytes, offset + 4, 1)?[0] & 0xf,
        section: usize::from(u16_at(bytes, offset + 6)?),
        value: u64_at(bytes, offset + 8)?,
        size: u64_at(bytes, offset + 16)?,
    })
}

fn read_sections(bytes: &[u8]) -> Result<Vec<Section>> {
    let table = usize::try_from(u64_at(bytes, 0x28)?)?;
    let names = usize::from(u16_at(bytes, 0x3e)?);
    let names = usize::try_from(u64_at(bytes, table + names * 64 + 0x18)?)?;
    (0..usize::from(u16_at(bytes, 0x3c)?))
        .map(|index| read_section(bytes, table + index * 64, names))
        .collect()
}

fn read_section(bytes: &[u8], offset: usize, names: usize) -> Result<Section> {
    Ok(Section {
        name: text(bytes, names + u32_at(bytes, offset)? as usize)?,
        kind: u32_at(bytes, offset + 4)?,
        flags: u64_at(bytes, offset + 8)?,
        offset: usize::try_from(u64_at(bytes, offset + 0x18)?)?,
        size: usize::try_from(u64_at(bytes, offset + 0x20)?)?,
        link: u32_at(bytes, offset + 0x28)? as usize,
        info: u32_at(bytes, offset + 0x2c)? as usize,
    })
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Result<&[u8]> {
    let end = start.checked_add(length).filter(|end| *end <= bytes.len());
    match end {
        Some(end) => Ok(&bytes[start..end]),
        None => bail!("the object ends before byte {start} + {length}"),
    }
}

fn text(bytes: &[u8], start: usize) -> Result<String> {
    let rest = bytes.get(start..).context("a name is outside of the object")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name is not terminated")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(slice(bytes, offset, 2)?.try_into()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(slice(bytes, offset, 4)?.try_into()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(slice(bytes, offset, 8)?.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(instructions: &[[u8; 8]]) -> Function {
        let instructions = instructions.iter().map(|bytes| Instruction::read(bytes)).collect();
        Function { name: "f".into(), section: 1, start: 0, instructions }
    }

    #[test]
    fn unit_the_frame_extends_to_the_lowest_byte_accessed() {
        let store = [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0]; // *(u64 *)(r10 - 16) = r1
        assert_eq!(function(&[store]).frame_bytes(), 16);
    }

    #[test]
    fn unit_the_frame_includes_what_a_copy_of_its_pointer_reaches() {
        let copy = [0xbf, 0xa2, 0, 0, 0, 0, 0, 0]; // r2 = r10
        let add = [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff]; // r2 += -40
        assert_eq!(function(&[copy, add]).frame_bytes(), 40);
    }

    #[test]
    fn unit_other_bytes_are_an_error() {
        assert!(program_sizes(b"not an object").is_err());
        assert!(program_sizes(b"\x7fELF\x02\x01").is_err());
    }
}
