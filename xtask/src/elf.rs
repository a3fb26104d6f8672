//! Parses what the sizes of eBPF programs depend on in an ELF object: functions,
//! their instructions and stack, and the call graph.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

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
/// The section of subprograms. Programs are in sections named after their hook.
const SUBPROGRAMS: &str = ".text";

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
    let object = Programs::read(bytes)?;
    let programs = object.functions.iter().filter(|function| function.is_program);
    programs.map(|function| Ok((function.name.clone(), object.size(function)?))).collect()
}

struct Function {
    name: String,
    is_program: bool,
    section: SectionIndex,
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

/// A relocatable ELF object of eBPF programs.
struct Programs {
    functions: Vec<Function>,
    /// Call (section, offset in bytes) to symbol of the callee (section, offset
    /// in bytes).
    relocations: HashMap<(SectionIndex, u64), (SectionIndex, u64)>,
}

impl Programs {
    fn read(bytes: &[u8]) -> Result<Self> {
        let object: ElfFile64<'_, LittleEndian> = ElfFile64::parse(bytes)?;
        let mut programs = Self { functions: Vec::new(), relocations: HashMap::new() };
        for symbol in object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
            let Some(index) = symbol.section_index() else { continue };
            let section = object.section_by_index(index)?;
            if section.kind() != SectionKind::Text {
                continue;
            }
            let name = symbol.name()?.to_owned();
            let code = section.data_range(symbol.address(), symbol.size())?;
            let code = code.with_context(|| format!("{name} is outside of its section"))?;
            programs.functions.push(Function {
                name,
                is_program: section.name()? != SUBPROGRAMS,
                section: index,
                start: symbol.address(),
                instructions: code.chunks_exact(INSTRUCTION_BYTES).map(Instruction::read).collect(),
            });
        }
        for section in object.sections() {
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
                let symbol = object.symbol_by_index(symbol)?;
                if let Some(callee) = symbol.section_index() {
                    programs.relocations.insert((section.index(), offset), (callee, symbol.address()));
                }
            }
        }
        Ok(programs)
    }

    fn size(&self, program: &Function) -> Result<Size> {
        let mut reached = HashMap::new();
        let stack_bytes = self.walk(program, &mut reached, 0)?;
        Ok(Size { instructions: reached.values().sum(), stack_bytes })
    }

    /// Adds the function and all it calls to `reached`; returns the depth of the
    /// stack in bytes.
    fn walk(
        &self,
        function: &Function,
        reached: &mut HashMap<(SectionIndex, u64), u64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn function(instructions: &[[u8; 8]]) -> Function {
        let instructions = instructions.iter().map(|bytes| Instruction::read(bytes)).collect();
        Function { name: "f".into(), is_program: true, section: SectionIndex(1), start: 0, instructions }
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
