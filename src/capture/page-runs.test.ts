import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import {
  decodeRuns,
  encodeRuns,
  forEachRun,
  overlay,
  type PageRuns,
  RunBuilder,
  runAt,
  runsOf,
  wordAt,
} from './page-runs.ts';

const BUDDY = 0x400;
const ANON = 0x5828;
const NOPAGE = 0x100000;

/** Every frame's word as text, the slow way: what all the other functions have to agree with. */
function spelled(runs: PageRuns): string[] {
  const words: string[] = [];
  for (let run = 0; run < runs.length; run++) {
    const end = run + 1 < runs.length ? runs.startPfn[run + 1] : runs.endPfn;
    for (let pfn = runs.startPfn[run]; pfn < end; pfn++)
      words.push(`${runs.hi[runs.word[run]]}:${runs.lo[runs.word[run]]}`);
  }
  return words;
}

const picture = runsOf([
  [BUDDY, 0, 1],
  [ANON, 0, 2],
  [ANON, 1, 1], // differs in the upper half only
  [BUDDY, 0, 3],
]);

describe('RunBuilder', () => {
  it('PR1 neighbouring runs differ and the dictionary holds each word once, in order of first appearance', () => {
    expect([...picture.startPfn]).toEqual([0, 1, 3, 4]);
    expect([...picture.word]).toEqual([0, 1, 2, 0]);
    expect([...picture.lo]).toEqual([BUDDY, ANON, ANON]);
    expect([...picture.hi]).toEqual([0, 0, 1]);
    expect(picture.endPfn).toBe(7);
  });

  it('PR2 the cut into chunks does not show', () => {
    const words = Uint32Array.from([BUDDY, 0, ANON, 0, ANON, 0, ANON, 1, BUDDY, 0, BUDDY, 0, BUDDY, 0]);
    for (let cut = 0; cut <= 7; cut++) {
      const builder = new RunBuilder();
      builder.push(words.slice(0, cut * 2), cut);
      builder.push(words.slice(cut * 2), 7 - cut);
      expect(builder.finish()).toEqual(picture);
    }
  });

  it('PR3 only the frames asked for are taken from a chunk, and the chunk may be reused', () => {
    const chunk = Uint32Array.from([ANON, 0, ANON, 0, 7, 7]);
    const builder = new RunBuilder();
    builder.push(chunk, 2);
    chunk.fill(0);
    builder.push(chunk, 1);
    expect(spelled(builder.finish())).toEqual([`0:${ANON}`, `0:${ANON}`, '0:0']);
  });

  it('PR4 words with the top bit set in either half stay exact', () => {
    const runs = runsOf([
      [0xffffffff, 0x80000000, 1],
      [0x80000000, 0xffffffff, 1],
      [0xffffffff, 0x80000000, 1],
    ]);
    expect(spelled(runs)).toEqual(['2147483648:4294967295', '4294967295:2147483648', '2147483648:4294967295']);
    expect(runs.lo.length).toBe(2);
  });

  it('PR5 a chunk longer than its words is a bug in the caller', () => {
    expect(() => new RunBuilder().push(new Uint32Array(4), 3)).toThrow('more frames than words');
  });

  it('PR6 an empty file is no runs', () => {
    const empty = new RunBuilder().finish();
    expect(empty.length).toBe(0);
    expect(empty.endPfn).toBe(0);
    expect(wordAt(empty, 0)).toBe(-1);
    expect(decodeRuns(encodeRuns(empty))).toEqual(empty);
  });
});

describe('lookup', () => {
  it('PR7 wordAt finds every frame, and -1 on both sides of the file', () => {
    const words = spelled(picture);
    for (let pfn = 0; pfn < 7; pfn++) {
      const word = wordAt(picture, pfn);
      expect(`${picture.hi[word]}:${picture.lo[word]}`).toBe(words[pfn]);
    }
    expect(wordAt(picture, -1)).toBe(-1);
    expect(wordAt(picture, 7)).toBe(-1);
    expect(runAt(picture, 3)).toBe(2);
  });

  it('PR8 forEachRun cuts runs at both ends of the range and clips it to the file', () => {
    const seen: number[][] = [];
    forEachRun(picture, 2, 6, (start, end, word) => seen.push([start, end, word]));
    expect(seen).toEqual([
      [2, 3, 1],
      [3, 4, 2],
      [4, 6, 0],
    ]);
    seen.length = 0;
    forEachRun(picture, -5, 100, (start, end) => seen.push([start, end]));
    expect(seen).toEqual([
      [0, 1],
      [1, 3],
      [3, 4],
      [4, 7],
    ]);
    seen.length = 0;
    forEachRun(picture, 5, 5, () => seen.push([]));
    forEachRun(picture, 7, 9, () => seen.push([]));
    expect(seen).toEqual([]);
  });

  it('PR9 overlay replaces exactly the range, drops words that are gone and may extend the file', () => {
    const patched = overlay(picture, 1, runsOf([[BUDDY, 0, 3]]));
    expect(patched).toEqual(runsOf([[BUDDY, 0, 7]]));
    const extended = overlay(picture, 7, runsOf([[NOPAGE, 0, 2]]));
    expect(extended.endPfn).toBe(9);
    expect(spelled(extended)).toEqual([...spelled(picture), `0:${NOPAGE}`, `0:${NOPAGE}`]);
    expect(() => overlay(picture, 8, runsOf([[NOPAGE, 0, 1]]))).toThrow('a patch must touch the file');
  });
});

describe('encoding', () => {
  const bytesOf = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);

  it('PR10 the bytes are the documented ones', () => {
    // Two words, three runs, lengths 1, 200 (two bytes) and 3; docs/formats/capture.md shows the same example.
    const runs = runsOf([
      [BUDDY, 0, 1],
      [ANON, 0x20, 200],
      [BUDDY, 0, 3],
    ]);
    expect([...encodeRuns(runs)]).toEqual([
      2, 0x00, 0x04, 0, 0, 0, 0, 0, 0, 0x28, 0x58, 0, 0, 0x20, 0, 0, 0, 3, 0, 1, 0, 1, 0xc8, 0x01, 3,
    ]);
    expect(decodeRuns(encodeRuns(runs))).toEqual(runs);
  });

  it('PR11 each malformed encoding is refused', () => {
    const word = [1, 0, 0, 0, 2, 0, 0, 0];
    const other = [3, 0, 0, 0, 4, 0, 0, 0];
    expect(decodeRuns(bytesOf(1, ...word, 1, 0, 5))?.endPfn).toBe(5); // the sound one
    const malformed: Record<string, Uint8Array> = {
      'nothing at all': bytesOf(),
      'a dictionary longer than the bytes': bytesOf(0xff, 0xff, 0xff, 0xff, 0x0f),
      'more runs than bytes': bytesOf(1, ...word, 0xff, 0xff, 0x03, 0, 5),
      'a word twice in the dictionary': bytesOf(2, ...word, ...word, 2, 0, 1, 1, 1),
      'a word that no run uses': bytesOf(2, ...word, ...other, 1, 0, 5),
      'an index outside the dictionary': bytesOf(1, ...word, 2, 0, 1, 1, 1),
      'words not in order of first appearance': bytesOf(2, ...word, ...other, 2, 1, 0, 1, 1),
      'equal neighbours': bytesOf(1, ...word, 2, 0, 0, 1, 1),
      'a run of no frames': bytesOf(1, ...word, 1, 0, 0),
      'lengths missing': bytesOf(1, ...word, 1, 0),
      'bytes left over': bytesOf(1, ...word, 1, 0, 5, 0),
      'a varint not in its shortest form': bytesOf(1, ...word, 1, 0, 0x85, 0x00),
      'a varint without an end': bytesOf(1, ...word, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
      'more frames than any machine has': bytesOf(1, ...word, 1, 0, 0x81, 0x80, 0x80, 0x80, 0x80, 0x20),
    };
    for (const [what, bytes] of Object.entries(malformed)) expect(decodeRuns(bytes), what).toBeUndefined();
  });

  it('PR12 2^40 frames, the end of physical address space, are exact', () => {
    const runs = runsOf([
      [NOPAGE, 0, 2 ** 40 - 1],
      [BUDDY, 0, 1],
    ]);
    expect(decodeRuns(encodeRuns(runs))).toEqual(runs);
    expect(wordAt(runs, 2 ** 40 - 2)).toBe(0);
    expect(wordAt(runs, 2 ** 40 - 1)).toBe(1);
  });

  it('PR13 many distinct words survive the growth of the dictionary and its hash', () => {
    const prng = new Prng(1);
    const triples = Array.from({ length: 5000 }, (_, i) => [prng.next(), i, 1 + prng.below(3)] as const);
    const runs = runsOf(triples);
    expect(runs.lo.length).toBe(5000);
    expect([...runs.lo]).toEqual(triples.map(([lo]) => lo));
    expect(decodeRuns(encodeRuns(runs))).toEqual(runs);
  });
});
