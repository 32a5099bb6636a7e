// Random page words against an array of words, and random damage against the decoder.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { decodeRuns, encodeRuns, forEachRun, overlay, type PageRuns, RunBuilder, wordAt } from './page-runs.ts';

type Word = readonly [lo: number, hi: number];

function randomWords(prng: Prng): Word[] {
  const alphabet = Array.from(
    { length: 1 + prng.below(5) },
    (): Word => [prng.next(), prng.pick([0, 0x20, prng.next()])],
  );
  const words: Word[] = [];
  for (let runs = prng.below(30); runs > 0; runs--) {
    const word = prng.pick(alphabet);
    for (let n = 1 + prng.below(prng.pick([1, 4, 200])); n > 0; n--) words.push(word);
  }
  return words;
}

/** In random chunks and runs: how the words arrive must not matter. */
function build(prng: Prng, words: readonly Word[]): PageRuns {
  const builder = new RunBuilder();
  for (let at = 0; at < words.length; ) {
    const frames = Math.min(prng.below(50), words.length - at);
    if (frames === 0) {
      builder.pushRun(words[at][0], words[at][1], 1);
      at++;
    } else {
      builder.push(Uint32Array.from(words.slice(at, at + frames).flat()), frames);
      at += frames;
    }
  }
  return builder.finish();
}

function spell(runs: PageRuns): string {
  const out: string[] = [];
  forEachRun(runs, 0, Number.POSITIVE_INFINITY, (start, end, word) => {
    for (let pfn = start; pfn < end; pfn++) out.push(`${runs.hi[word]}:${runs.lo[word]}`);
  });
  return out.join(' ');
}

const spellWords = (words: readonly Word[]): string => words.map(([lo, hi]) => `${hi}:${lo}`).join(' ');

it('PR-F1 building, looking up, overlaying and encoding agree with an array of words', () => {
  for (let seed = 1; seed <= 300; seed++) {
    const prng = new Prng(seed);
    const words = randomWords(prng);
    const runs = build(prng, words);
    const why = `seed=${seed}`;
    expect(spell(runs), why).toBe(spellWords(words));
    for (let n = 0; n < 20 && words.length > 0; n++) {
      const pfn = prng.below(words.length);
      const word = wordAt(runs, pfn);
      expect([runs.lo[word], runs.hi[word]], why).toEqual(words[pfn]);
    }

    const patchWords = randomWords(prng);
    const at = prng.below(words.length + 1);
    const patched = [...words.slice(0, at), ...patchWords, ...words.slice(at + patchWords.length)];
    expect(spell(overlay(runs, at, build(prng, patchWords))), why).toBe(spellWords(patched));

    expect(decodeRuns(encodeRuns(runs)), why).toEqual(runs);
  }
});

it('PR-F2 damaged bytes are refused, or are the one encoding of what they decode to', () => {
  let accepted = 0;
  let refused = 0;
  for (let seed = 1; seed <= 3000; seed++) {
    const prng = new Prng(seed);
    let bytes = encodeRuns(build(prng, randomWords(prng)));
    for (let edits = 1 + prng.below(3); edits > 0; edits--) {
      if (prng.chance(0.2)) bytes = bytes.slice(0, prng.below(bytes.length + 1));
      else if (bytes.length > 0) bytes[prng.below(bytes.length)] ^= 1 << prng.below(8);
    }
    const runs = decodeRuns(bytes);
    if (runs === undefined) {
      refused++;
      continue;
    }
    accepted++;
    expect([...encodeRuns(runs)], `seed=${seed}`).toEqual([...bytes]);
  }
  expect(accepted).toBeGreaterThan(0); // a flipped bit inside a dictionary word is still a sound encoding
  expect(refused).toBeGreaterThan(0);
});
