// Text: what all parsers of this folder share. Lines, counters, and one way to refuse.
//
// Rules of this folder (kernfs.test.ts, kernfs.fuzz.ts and the tests beside each module cite them):
//   KF1  a text as the kernel wrote it prints back to the byte.
//   KF2  no figure is ever changed: any other accepted text prints back up to runs of blanks (and zoneinfo lines of a
//        later kernel, which move to the end of their group).
//   KF3  bad input is a refusal with file, line and one sentence; never an exception.
//   KF4  a text that ends in the middle of a line is refused: half a number still looks like a number.
//   KF5  a piece missing inside is refused where the format repeats itself (zoneinfo, pagetypeinfo); in a plain list
//        (vmstat, meminfo, iomem, buddyinfo) it cannot be seen, and what is left is read unchanged.
//   KF6  CRLF is a copy's doing, not the kernel's: it reads like LF.
//
// Why blanks are free (KF2): they carry no meaning in any of these files but iomem, and their widths change between
// kernels (the pagesets of zoneinfo between 6.12 and 6.18). Reading must not hang on them; printing is exact.
//
// Counters are unsigned long. One that was decremented below zero prints near 2^64 (18446744073709551611 is -5, seen
// for racy statistics); it is held as the negative number it means and printed unsigned again, exactly.

import type { Err, Result } from '#base/result';
import { err, ok } from '#base/result';
import type { KernfsProblem } from './source.ts';

/** A refusal: one sentence about `line` (1-based, 0 = the file as a whole) of `file`. */
export const problem = (file: string, line: number, reason: string): Err<KernfsProblem> => err({ file, line, reason });

/** "/proc/zoneinfo, line 12: ..." as people read it. */
export const formatProblem = (p: KernfsProblem): string =>
  p.line === 0 ? `${p.file}: ${p.reason}` : `${p.file}, line ${p.line}: ${p.reason}`;

const QUOTED_MAX = 60;

/** The offending text inside a sentence: quoted, control characters escaped, at most 60 characters. */
export const quoted = (text: string): string =>
  JSON.stringify(text.length > QUOTED_MAX ? `${text.slice(0, QUOTED_MAX)}...` : text);

/** The file's lines without their ends; refused when empty, when the last line has no end, and when it holds NUL bytes. */
export function linesOf(text: string, file: string): Result<readonly string[], KernfsProblem> {
  if (text.length === 0) return problem(file, 0, 'the file is empty');
  const lines = text.split('\n');
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    if (line.endsWith('\r')) lines[i] = line.slice(0, -1);
    if (line.includes('\0')) return problem(file, i + 1, 'this is not text: the line holds NUL bytes');
  }
  const rest = lines.pop() as string; // split always gives at least one piece
  if (rest !== '')
    return problem(file, lines.length + 1, `the file was cut off in the middle of a line: ${quoted(rest)}`);
  return ok(lines);
}

const DECIMAL = /^(?:0|[1-9][0-9]{0,19})$/;
const TWO_POW_64 = 2n ** 64n;

/**
 * An unsigned long in decimal, as the kernel prints it. Exact from -(2^53-1) (printed as 2^64 - n) to 2^53-1;
 * undefined for anything else: leading zeros, signs, other characters, the values in between.
 */
export function readCount(text: string): number | undefined {
  if (!DECIMAL.test(text)) return undefined;
  const n = Number(text);
  if (Number.isSafeInteger(n)) return n;
  const exact = BigInt(text);
  if (exact >= TWO_POW_64) return undefined;
  const negative = Number(exact - TWO_POW_64);
  return Number.isSafeInteger(negative) ? negative : undefined;
}

/** The reverse of readCount. */
export const printCount = (n: number): string => (n < 0 ? String(TWO_POW_64 + BigInt(n)) : String(n));

/** An int in decimal ("%i"): readCount's digits with a sign allowed, within 32 bits. */
export function readInt(text: string): number | undefined {
  if (!/^(?:0|-?[1-9][0-9]{0,9})$/.test(text)) return undefined;
  const n = Number(text);
  return n === (n | 0) ? n : undefined;
}

/** All fields as counters, or undefined when one of them is none. */
export function readCounts(fields: readonly string[]): number[] | undefined {
  const counts: number[] = [];
  for (const field of fields) {
    const n = readCount(field);
    if (n === undefined) return undefined;
    counts.push(n);
  }
  return counts;
}

/** Fields between runs of blanks; a blank at either end makes no empty field. */
export function fieldsOf(text: string): string[] {
  const fields: string[] = [];
  for (const field of text.split(' ')) if (field !== '') fields.push(field);
  return fields;
}

/** A node id in text, 0..1023 (Linux keeps at most 2^10 nodes). */
export function readNodeNumber(text: string): number | undefined {
  const n = readCount(text);
  return n !== undefined && n >= 0 && n < MAX_NODES ? n : undefined;
}

export const MAX_NODES = 1024;

/** One line's text from a one-line file: newline or CRLF taken off, blanks at the end kept. Undefined for more lines. */
export function singleLine(text: string): string | undefined {
  const line = text.replace(/\r?\n$/, '');
  return /[\n\r\0]/.test(line) ? undefined : line;
}
