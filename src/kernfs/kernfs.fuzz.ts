// KF2 and KF3 under damage: golden texts with bytes changed, taken out, doubled and moved, and texts of pure noise.
//
// The oracle needs no model: a damaged text is either refused in one sentence about a line that exists, or it prints
// back as it stands, up to runs of blanks. Reading a figure as another one would break the second, a crash the first.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { parseCmdline, printCmdline } from './cmdline.ts';
import { FORMAT_CASES, squeezed } from './formats.cases.ts';
import { parseList, printList } from './list-format.ts';
import { parseVersion, printVersion } from './version.ts';

const ROUNDS = 250;
const FRAGMENTS = ['0', '-', ' ', '\n', '\r\n', '\t', '\0', '>100000', '18446744073709551611', '99999999999999999999'];
const MORE = ['Node 0, zone      DMA', 'é', '\u2028', '1e9', '007', ': ', 'kB', '  ', ','];

function damaged(prng: Prng, text: string): string {
  let out = text;
  for (let n = 1 + prng.below(3); n > 0; n--) {
    const at = prng.below(out.length + 1);
    const end = Math.min(out.length, at + prng.below(prng.chance(0.8) ? 4 : 200));
    switch (prng.below(5)) {
      case 0:
        out = out.slice(0, at) + String.fromCharCode(prng.below(128)) + out.slice(at + 1);
        break;
      case 1:
        out = out.slice(0, at) + out.slice(end);
        break;
      case 2:
        out = out.slice(0, at) + prng.pick(prng.chance(0.5) ? FRAGMENTS : MORE) + out.slice(end);
        break;
      case 3:
        out = out.slice(0, end) + out.slice(at, end) + out.slice(end);
        break;
      default: {
        const lines = out.split('\n');
        const i = prng.below(lines.length);
        const j = prng.below(lines.length);
        [lines[i], lines[j]] = [lines[j], lines[i]];
        out = lines.join('\n');
      }
    }
  }
  return out;
}

const noise = (prng: Prng): string =>
  Array.from({ length: prng.below(40) }, () => prng.pick([...FRAGMENTS, ...MORE, 'a', '1', 'Node '])).join('');

describe('kernfs fuzz', () => {
  let accepted = 0;
  let refused = 0;
  for (const [k, { path, text, reprint, blanksCount }] of FORMAT_CASES.entries()) {
    it(`KF2 KF3 ${path}: damage is refused or told as it is, never an exception`, () => {
      for (let round = 0; round < ROUNDS; round++) {
        const seed = k * 100_000 + round;
        const prng = new Prng(seed);
        const input = prng.chance(0.05) ? noise(prng) : damaged(prng, text);
        const result = reprint(input);
        if (result.ok) {
          accepted++;
          const same = blanksCount ? (t: string) => t.replaceAll('\r\n', '\n') : squeezed;
          expect(same(result.value), `seed=${seed}`).toBe(same(input));
        } else {
          refused++;
          const { line, reason } = result.error;
          expect(line, `seed=${seed}`).toBeLessThanOrEqual(input.split('\n').length);
          expect(reason, `seed=${seed}`).toMatch(/^[^\n]+$/);
        }
      }
    });
  }
  it('both outcomes were seen: the fuzz is neither blind nor toothless', () => {
    expect(accepted).toBeGreaterThan(100);
    expect(refused).toBeGreaterThan(1000);
  });
  it('KF2 KF3 one-line files: refused, or printed back', () => {
    for (let seed = 1; seed <= 3000; seed++) {
      const prng = new Prng(seed);
      const text = damaged(prng, prng.pick(['Linux version 6.1.0-56-amd64 (x) #1\n', 'a="b c" d=e -- f\n', '0-1,4\n']));
      const line = text.replace(/\r?\n$/, '');
      const cmdline = parseCmdline(text);
      if (cmdline.ok) expect(printCmdline(cmdline.value), `seed=${seed}`).toBe(`${line}\n`);
      const version = parseVersion(text);
      if (version.ok) expect(printVersion(version.value), `seed=${seed}`).toBe(`${line}\n`);
      const list = parseList(text);
      if (list.ok) expect(parseList(printList(list.value)), `seed=${seed}`).toEqual(list);
    }
  });
});
