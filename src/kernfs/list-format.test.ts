import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { parseList, printList } from './list-format.ts';

const numbers = (text: string) => {
  const list = parseList(text, 'f');
  return list.ok ? list.value : list.error.reason;
};

describe('list format', () => {
  it('reads ranges, single numbers and the empty set', () => {
    expect(numbers('0-1,4\n')).toEqual([0, 1, 4]);
    expect(numbers('7')).toEqual([7]);
    expect(numbers('\n')).toEqual([]);
  });
  it('prints the shortest form: neighbours are joined, also two of them', () => {
    expect(printList([0, 1, 4, 6, 7, 8])).toBe('0-1,4,6-8');
    expect(printList([])).toBe('');
  });
  it('KF3 refuses what does not ascend, descending ranges, strides, words and huge numbers', () => {
    expect(numbers('4,0-1')).toBe('the list does not ascend at "0-1"');
    expect(numbers('0-4,4')).toBe('the list does not ascend at "4"');
    for (const text of ['3-1', '0-31:2/4', 'all', '1,', '-1', '1-2-3', '0-99999999', '0\n1\n']) {
      expect(typeof numbers(text), text).toBe('string');
    }
  });
  it('KF1 random sets survive printing and parsing', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const prng = new Prng(seed);
      const set = Array.from({ length: 60 }, (_, n) => n).filter(() => prng.chance(0.5));
      expect(numbers(printList(set)), `seed=${seed}`).toEqual(set);
    }
  });
});
