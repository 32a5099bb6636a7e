// /proc/iomem: who claims which physical addresses, as a tree by indentation.
//
//   00100000-7ffdcfff : System RAM          depth 0
//     10e00000-11c01d31 : Kernel code       depth 1: two blanks a level, five levels at most
//   140000000-3bfffffff : System RAM        one line per hot-added DIMM; neighbours are not merged
//
// Addresses are hexadecimal, at least eight digits, and the second one is inclusive in the text; here ranges are
// half-open. Indentation is the only structure, so that blanks do count in this file. A reader without CAP_SYS_ADMIN
// gets every address as zero: the names are true, the addresses are not (iomemHidden).
// Invariants, checked unless hidden: a child lies inside its parent, siblings ascend without overlap.
// Follows Linux v6.12 kernel/resource.c: r_show(), walk_system_ram_range(); spec 6.

import type { Err, Result } from '#base/result';
import { ok } from '#base/result';
import type { Pfn } from '#base/units';
import { toPfn } from '#base/units';
import type { KernfsProblem } from './source.ts';
import { linesOf, problem, quoted } from './text.ts';

export type IomemEntry = {
  /** 0 at top level; entries follow their parent, in the file's order. */
  readonly depth: number;
  /** Half-open, in bytes; end >= start. */
  readonly startPhys: number;
  readonly endPhys: number;
  readonly name: string;
};

export type PfnRange = { readonly startPfn: Pfn; readonly endPfn: Pfn };

const PAGE_SIZE = 4096;
/** r_show() indents no further than this; what is nested deeper shows at this depth. */
const MAX_DEPTH = 5;

/** Entries in file order. Refuses lines of another shape, impossible nesting and addresses above 2^53. Cost O(text). */
export function parseIomem(text: string, file = '/proc/iomem'): Result<IomemEntry[], KernfsProblem> {
  const lines = linesOf(text, file);
  if (!lines.ok) return lines;
  const entries: IomemEntry[] = [];
  for (const [i, line] of lines.value.entries()) {
    const m = /^((?: {2})*)([0-9a-f]{8,16})-([0-9a-f]{8,16}) : (.*)$/.exec(line);
    if (m === null) return problem(file, i + 1, `expected "START-END : NAME" in hexadecimal, found ${quoted(line)}`);
    const startPhys = readHex(m[2]);
    const endInclusive = readHex(m[3]);
    if (startPhys === undefined || endInclusive === undefined) {
      return problem(file, i + 1, `${m[2]}-${m[3]} is not a range of physical addresses below 2^53`);
    }
    const depth = m[1].length / 2;
    if (depth > MAX_DEPTH) return problem(file, i + 1, `indented ${depth} levels, the kernel stops at ${MAX_DEPTH}`);
    if (endInclusive + 1 < startPhys) return problem(file, i + 1, `the range ${m[2]}-${m[3]} ends before it starts`);
    entries.push({ depth, startPhys, endPhys: endInclusive + 1, name: m[4] });
  }
  return nestingProblem(entries, file) ?? ok(entries);
}

export function printIomem(entries: readonly IomemEntry[]): string {
  let text = '';
  for (const { depth, startPhys, endPhys, name } of entries) {
    text += `${'  '.repeat(depth)}${printHex(startPhys)}-${printHex(endPhys - 1)} : ${name}\n`;
  }
  return text;
}

/** True when the kernel zeroed all addresses because the reader was not privileged (kptr_restrict has no say here). */
export const iomemHidden = (entries: readonly IomemEntry[]): boolean =>
  entries.length > 0 && entries.every((e) => e.startPhys === 0 && e.endPhys === 1);

/**
 * Whole pages of system RAM, as walk_system_ram_range() finds them: every "System RAM" and "System RAM (driver)" at
 * any depth, one range per entry, ascending, not merged. Pages that an entry covers only in part belong to none;
 * what lies inside a range found before is not visited again. Empty when the addresses are hidden.
 */
export function systemRamPfnRanges(entries: readonly IomemEntry[]): PfnRange[] {
  const ranges: PfnRange[] = [];
  let seenPhys = 0;
  for (const { startPhys, endPhys, name } of entries) {
    if (!SYSTEM_RAM.test(name) || startPhys < seenPhys) continue;
    seenPhys = endPhys;
    const startPfn = Math.ceil(startPhys / PAGE_SIZE);
    const endPfn = Math.floor(endPhys / PAGE_SIZE);
    if (endPfn > startPfn) ranges.push({ startPfn: toPfn(startPfn), endPfn: toPfn(endPfn) });
  }
  return ranges;
}

// Drivers that add memory put their name into parentheses: (virtio_mem), (kmem); see add_memory_driver_managed().
const SYSTEM_RAM = /^System RAM(?: \([^()]*\))?$/;

function nestingProblem(entries: readonly IomemEntry[], file: string): Err<KernfsProblem> | undefined {
  const hidden = iomemHidden(entries);
  const path: IomemEntry[] = [];
  for (const [i, entry] of entries.entries()) {
    if (entry.depth > path.length) return problem(file, i + 1, `${quoted(entry.name)} is indented without a parent`);
    const sibling = path[entry.depth];
    path.length = entry.depth;
    const parent = path.at(-1);
    path.push(entry);
    // At the greatest depth descendants of several levels share one indentation: nothing can be said there.
    if (hidden || entry.depth === MAX_DEPTH) continue;
    if (parent !== undefined && (entry.startPhys < parent.startPhys || entry.endPhys > parent.endPhys)) {
      return problem(file, i + 1, `${quoted(entry.name)} does not lie inside ${quoted(parent.name)}, its parent`);
    }
    if (sibling !== undefined && entry.startPhys < sibling.endPhys) {
      return problem(file, i + 1, `${quoted(entry.name)} overlaps or precedes ${quoted(sibling.name)} before it`);
    }
  }
  return undefined;
}

/** Exactly as printed: no digit more than needed beyond eight. */
function readHex(text: string): number | undefined {
  const n = Number.parseInt(text, 16);
  return n < Number.MAX_SAFE_INTEGER && printHex(n) === text ? n : undefined;
}

const printHex = (n: number): string => n.toString(16).padStart(8, '0');
