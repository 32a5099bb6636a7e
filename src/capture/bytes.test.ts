import { crc32 as zlibCrc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { ByteReader, ByteWriter, crc32 } from './bytes.ts';

describe('crc32', () => {
  it('BY1 is the IEEE CRC: the check value of its definition, and zlib says the same at every length', () => {
    expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
    expect(crc32(new Uint8Array(0))).toBe(0);
    const prng = new Prng(7);
    for (let length = 0; length < 70; length++) {
      const bytes = Uint8Array.from({ length }, () => prng.below(256));
      expect(crc32(bytes), `length=${length}`).toBe(zlibCrc32(bytes));
    }
  });
});

describe('varint', () => {
  it('BY2 values up to 2^49 - 1 come back exactly', () => {
    const values = [0, 1, 127, 128, 16383, 16384, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 40, 2 ** 49 - 1];
    const out = new ByteWriter(1);
    for (const value of values) out.varint(value);
    const from = new ByteReader(out.finish());
    expect(values.map(() => from.varint())).toEqual(values);
    expect([from.bad, from.left]).toEqual([false, 0]);
  });

  it('BY3 a reader that met something unreadable stays bad and returns 0', () => {
    const from = new ByteReader(Uint8Array.from([0x80, 0x00, 5]));
    expect(from.varint()).toBe(0);
    expect(from.bad).toBe(true);
    expect(from.varint()).toBe(0);
    expect(from.bad).toBe(true);
    const short = new ByteReader(Uint8Array.from([1, 2, 3]));
    expect(short.u32()).toBe(0);
    expect(short.bad).toBe(true);
  });

  it('BY4 u32 is little-endian and unsigned', () => {
    const out = new ByteWriter(1);
    out.u32(0xfedcba98);
    expect([...out.finish()]).toEqual([0x98, 0xba, 0xdc, 0xfe]);
    expect(new ByteReader(out.finish()).u32()).toBe(0xfedcba98);
  });
});
