import { describe, expect, it } from 'vitest';
import { parseTarget, sayIds } from './target.ts';

const sentenceOf = (text: string): string => {
  const t = parseTarget(text);
  return t.ok ? `accepted as ${JSON.stringify(t.value)}` : t.error.sentence;
};

describe('parseTarget', () => {
  it.each([
    ['block:32', { kind: 'block', spans: [{ first: 32, last: 32 }] }],
    ['block:32-39', { kind: 'block', spans: [{ first: 32, last: 39 }] }],
    [
      'block:2,5-7',
      {
        kind: 'block',
        spans: [
          { first: 2, last: 2 },
          { first: 5, last: 7 },
        ],
      },
    ],
    ['range:0x100000000-0x13fffffff', { kind: 'range', startPhys: 2 ** 32, lastPhys: 2 ** 32 + 2 ** 30 - 1 }],
    ['node:1', { kind: 'node', node: 1 }],
    ['zone:1/normal', { kind: 'zone', node: 1, zone: 'Normal' }],
    ['dimm:0', { kind: 'dimm', index: 0 }],
    ['dimm:hotplug-1.a', { kind: 'dimm', id: 'hotplug-1.a' }],
    ['size:1.5GiB', { kind: 'size', bytes: 1.5 * 2 ** 30 }],
    ['SIZE:512m', { kind: 'size', bytes: 2 ** 29 }],
  ])('%s', (text, target) => expect(parseTarget(text)).toEqual({ ok: true, value: target }));

  it.each([
    ['32', 'block:32 or size:32G?'],
    ['32-39', 'block:32-39?'],
    ['4G', 'size:4G?'],
    ['0x100000000', 'ambiguous'],
    ['0x0-0x7ffffff', 'range:0x0-0x7ffffff?'],
    ['Movable', 'zone:0/Movable?'],
    ['node1', 'node:1?'],
    ['nod:1', 'node:1?'],
    ['bolck:1', 'a target is one of'],
    ['size:4', 'a size has a unit'],
    ['size:0G', 'a size has a unit'],
    ['block:', 'as in block:32'],
    ['dimm:', 'as in dimm:1 or dimm:dimm1'],
    ['dimm:-a', 'as in dimm:1 or dimm:dimm1'],
    ['block:0x20', 'block numbers are decimal'],
    ['block:9-3', 'block:3-9?'],
    ['block:99999999', 'no machine has so many blocks'],
    ['zone:Normal', 'a zone is named by node and name'],
    ['zone:0/Normall', 'a zone is named by node and name'],
    ['range:0x200000-0x100000', 'the end comes before the start'],
    ['', 'a target is one of'],
    [':', 'a target is one of'],
  ])('"%s" is refused: %s', (text, hint) => expect(sentenceOf(text)).toContain(hint));

  it('Q11 an address without 0x is refused: it might be decimal, and name another block', () => {
    expect(sentenceOf('range:100000000-13fffffff')).toContain('range:0x100000000-0x13fffffff?');
  });

  it('Q11 an end that looks exclusive is refused: it would reach into one block more', () => {
    expect(sentenceOf('range:0x100000000-0x140000000')).toContain('0x13fffffff?');
  });
});

describe('sayIds', () => {
  it('folds runs', () => {
    expect(sayIds([0, 1, 2, 5])).toBe('0-2,5');
    expect(sayIds([])).toBe('');
    expect(sayIds([7])).toBe('7');
  });
});
