// Columns of one table in one buffer: how the free areas' tables are laid out in memory, and what a copy walks.
//
//   buffer: │ column 0 ... │pad│ column 1 ... │pad│ ...        each column begins at a multiple of 64 bytes
//
// Why one buffer: every large ArrayBuffer that V8 makes may start a garbage collection (milliseconds for a terabyte's
// tables). Why an explicit buffer even for six words: V8 keeps arrays of up to 64 bytes inside its moving heap, and
// folds the address of a column into machine code only when it is outside (base/specialise.ts).
// A buffer starts as zeros that cost no memory until they are written.

import { assert } from '#base/assert';

const LINE = 64; // bytes of a cache line
const padded = (bytes: number): number => Math.ceil(bytes / LINE) * LINE;

export interface ColumnCarver {
  int32(length: number): Int32Array;
  uint16(length: number): Uint16Array;
  uint8(length: number): Uint8Array;
  float64(length: number): Float64Array;
}

/** Bytes of the buffer that holds columns of these lengths. */
export const columnBytes = (lengths: readonly number[]): number =>
  lengths.reduce((sum, bytes) => sum + padded(bytes), 0);

/**
 * @param lengths  bytes of each column that will be carved, in that order
 * @param within   where: a new buffer (default), or from a byte of one that is there, with what it holds
 * @returns cuts the columns out of one buffer; asking for more than was announced throws
 */
export function carveColumns(
  lengths: readonly number[],
  within?: { readonly buffer: ArrayBufferLike; readonly at: number },
): ColumnCarver {
  const buffer = within?.buffer ?? new ArrayBuffer(columnBytes(lengths));
  let at = within?.at ?? 0;
  const cut = (bytes: number): number => {
    const from = at;
    at += padded(bytes);
    assert(at <= buffer.byteLength, 'carved more columns than announced', { at, bytes: buffer.byteLength });
    return from;
  };
  return {
    int32: (length) => new Int32Array(buffer, cut(length * 4), length),
    uint16: (length) => new Uint16Array(buffer, cut(length * 2), length),
    uint8: (length) => new Uint8Array(buffer, cut(length), length),
    float64: (length) => new Float64Array(buffer, cut(length * 8), length),
  };
}

/** Calls back for each run [start, end) of sections that one of two areas has in use: all that a copy has to touch. */
export function forEachUsedRun(a: Uint8Array, b: Uint8Array, each: (start: number, end: number) => void): void {
  for (let s = 0; s < a.length; ) {
    if ((a[s] | b[s]) === 0) {
      s++;
      continue;
    }
    let end = s + 1;
    while (end < a.length && (a[end] | b[end]) !== 0) end++;
    each(s, end);
    s = end;
  }
}
