// Struct: a C structure of the kernel's interface as data: names and widths in, offsets, size, reading and writing out.
//
//   struct({ len: 'u32', error: 'i32', unique: 'u64' })   ->   len @0, error @4, unique @8, size 16
//
// Fields lie at their natural alignment, as in C on every 64-bit machine; a field that would need a hole in front of it is
// a mistake in the layout, and throws when the module is loaded. Little-endian: the FUSE device speaks the byte order of
// its machine, and mountFuse refuses a big-endian one.
//
// A 64-bit field becomes a plain number: exact below 2^53, rounded above. What dimmer compares exactly (inode numbers,
// handles, the kernel's request counter) stays far below; an offset of 2^53 and more is past the end of every file.

import { assert } from '#base/assert';

export type Width = 'u16' | 'u32' | 'i32' | 'u64';
export type Fields = Readonly<Record<string, Width>>;
export type Values<F extends Fields> = { readonly [K in keyof F]: number };

const BYTES: Readonly<Record<Width, number>> = { u16: 2, u32: 4, i32: 4, u64: 8 };
const TWO_32 = 2 ** 32;

export type Struct<F extends Fields> = {
  readonly size: number;
  readonly offset: Values<F>;
  /** All fields of the structure that begins at `at`. The caller has checked that `size` bytes are there. */
  read(bytes: Uint8Array, at: number): Values<F>;
  /** Fields that are not named are 0. */
  write(bytes: Uint8Array, at: number, values: Partial<Values<F>>): void;
};

export function struct<F extends Fields>(fields: F): Struct<F> {
  const offset: Record<string, number> = {};
  let size = 0;
  for (const [name, width] of Object.entries(fields)) {
    assert(size % BYTES[width] === 0, 'a field is not at its natural alignment', { name, size });
    offset[name] = size;
    size += BYTES[width];
  }
  const list = Object.entries(fields).map(([name, width]) => ({ name, width, at: offset[name] as number }));
  return {
    size,
    offset: offset as Values<F>,
    read(bytes, at) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, size);
      const out: Record<string, number> = {};
      for (const f of list) out[f.name] = get(view, f.at, f.width);
      return out as Values<F>;
    },
    write(bytes, at, values) {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, size);
      for (const f of list) put(view, f.at, f.width, values[f.name] ?? 0);
    },
  };
}

function get(view: DataView, at: number, width: Width): number {
  if (width === 'u64') return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
  if (width === 'u32') return view.getUint32(at, true);
  return width === 'i32' ? view.getInt32(at, true) : view.getUint16(at, true);
}

function put(view: DataView, at: number, width: Width, value: number): void {
  if (width === 'u64') {
    assert(Number.isSafeInteger(value) && value >= 0, 'not a 64-bit value that a number can hold', { value });
    view.setUint32(at, value % TWO_32, true);
    view.setUint32(at + 4, Math.floor(value / TWO_32), true);
  } else if (width === 'u32') view.setUint32(at, value, true);
  else if (width === 'i32') view.setInt32(at, value, true);
  else view.setUint16(at, value, true);
}
