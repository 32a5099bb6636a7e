import { describe, expect, it } from 'vitest';
import { decodeFlags, formatFlags, hasFlag, KPF, PAGE_FLAGS, WORD_STRIDE, wordsOf } from './kpageflags.ts';

describe('flags', () => {
  it('the table has each named bit once, ascending, with its letter as in spec 6', () => {
    expect(PAGE_FLAGS.map((f) => f.bit)).toEqual(Object.values(KPF));
    expect(PAGE_FLAGS.map((f) => f.letter).join('')).toBe('LERUDlASWIBMasbHTGuXnxtozigrmdPpOhcfHH');
    expect(new Set(PAGE_FLAGS.map((f) => f.name)).size).toBe(PAGE_FLAGS.length);
  });
  it('words of real pages: free, anonymous on 6.12, offline, memmap on memory', () => {
    expect(decodeFlags(0x400, 0)).toEqual(['buddy']);
    expect(decodeFlags(0x205828, 0)).toEqual(['uptodate', 'lru', 'mmap', 'anonymous', 'swapbacked', 'ksm']);
    expect(decodeFlags(0x100000, 0)).toEqual(['nopage']);
    expect(decodeFlags(0, 0x21)).toEqual(['reserved', 'owner_private']);
    expect(decodeFlags(0, 0)).toEqual([]);
  });
  it('formatFlags gives every flag its own column', () => {
    expect(formatFlags(0x5828, 0)).toBe('___U_l_____Ma_b_______________________');
    expect(formatFlags(0, 1)).toBe('___________________________r__________');
    for (const [column, { bit, letter }] of PAGE_FLAGS.entries()) {
      const text = formatFlags(bit < 32 ? (1 << bit) >>> 0 : 0, bit < 32 ? 0 : 1 << (bit - 32));
      expect(text).toBe('_'.repeat(column) + letter + '_'.repeat(PAGE_FLAGS.length - column - 1));
    }
  });
  it('a bit that no table knows is named by its number, never dropped', () => {
    expect(decodeFlags(2 ** 27, 2 ** 31)).toEqual(['bit27', 'bit63']);
    expect(formatFlags(2 ** 27, 2 ** 31)).toBe(`${'_'.repeat(PAGE_FLAGS.length)}+bit27+bit63`);
  });
  it('hasFlag reads bit 31 and bit 63 without sign trouble', () => {
    expect([hasFlag(2 ** 31, 0, 31), hasFlag(0, 2 ** 31, 63), hasFlag(2 ** 31, 0, 63), hasFlag(0, 1, 32)]).toEqual([
      true,
      true,
      false,
      true,
    ]);
  });
});

describe('words', () => {
  const bytes = new Uint8Array([1, 0, 0, 0, 2, 0, 0, 0, 0x28, 0x58, 0x20, 0, 0, 0, 0, 0x80]);
  it('word k is lo and hi at k * WORD_STRIDE, from bytes or a buffer, aligned or not', () => {
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    for (const source of [bytes, bytes.slice().buffer, shifted.subarray(1)]) {
      const words = wordsOf(source);
      expect(words.ok && words.value.length).toBe(2);
      if (!words.ok) continue;
      const { lo, hi, length } = words.value;
      const read = Array.from({ length }, (_, k) => [lo[k * WORD_STRIDE], hi[k * WORD_STRIDE]]);
      expect(read).toEqual([
        [1, 2],
        [0x205828, 0x80000000],
      ]);
    }
  });
  it('aligned bytes are not copied', () => {
    const own = bytes.slice();
    const words = wordsOf(own);
    own[0] = 9;
    expect(words.ok && words.value.lo[0]).toBe(9);
  });
  it('KF4 a length that is no multiple of eight is refused; no bytes are no words', () => {
    expect(wordsOf(bytes.subarray(0, 15))).toEqual({
      ok: false,
      error: { file: '/proc/kpageflags', line: 0, reason: '15 bytes are not whole words of 8: the file was cut off' },
    });
    expect(wordsOf(new Uint8Array(0))).toMatchObject({ ok: true, value: { length: 0 } });
  });
});
