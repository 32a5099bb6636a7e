import { describe, expect, it } from 'vitest';
import { treeFromFiles } from './memory-tree.ts';
import { numberIn, oneOf, readAttribute } from './sysfs.ts';

const attribute = { expected: 'Y or N', read: oneOf(['Y', 'N'] as const) };
const read = (text: string | undefined) => readAttribute(treeFromFiles(new Map([['/a', text]])), '/a', attribute);

describe('attributes', () => {
  it('a value is read with its newline, without, with CRLF or blanks around', () => {
    for (const text of ['Y\n', 'Y', 'Y\r\n', ' Y \n'])
      expect(read(text), JSON.stringify(text)).toEqual({ ok: true, value: 'Y' });
  });
  it('an absent file is no value, not a problem', () => {
    expect(read(undefined)).toEqual({ ok: true, value: undefined });
  });
  it('KF3 another text is refused, saying what was expected', () => {
    expect(read('maybe\n')).toEqual({
      ok: false,
      error: { file: '/a', line: 1, reason: 'expected Y or N, found "maybe\\n"' },
    });
    expect(read('Y\nN\n').ok).toBe(false);
    expect(read('').ok).toBe(false);
  });
});

describe('numbered names', () => {
  it('memory32 is 32; other names have no number', () => {
    expect(numberIn('memory32', 'memory')).toBe(32);
    expect(numberIn('memory0', 'memory')).toBe(0);
    for (const name of ['memory', 'memory1x', 'memory01', 'node1', 'memory-1', 'memory_1']) {
      expect(numberIn(name, 'memory'), name).toBeUndefined();
    }
  });
});
