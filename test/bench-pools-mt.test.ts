// The bench of pools and threads, tiny: every kind of case runs, and ends with all frames freed and every table sound.
// Results are judged, time never.

import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const BENCH = fileURLToPath(new URL('../bench/pools-mt.mjs', import.meta.url));
const BUILT = fileURLToPath(new URL('../dist/mm/shared/index.js', import.meta.url));
const CASES = ['plain-2', 'give-1e3', 'used-1e5', 'free-1%', 'locked-rings-2', 'locked-2', 'burst-exclusive-2'];

type Row = { readonly perSecond: number; readonly givenPerSecond: number; readonly mailedPerSecond: number };

describe('bench of pools and threads', () => {
  it('every kind of case runs, and loses no frame', () => {
    if (!existsSync(BUILT)) throw new Error('dist/mm/shared is missing: npm run build (npm test does it)');
    const args = [BENCH, '--quick', '--json', '--only', CASES.join()];
    const [round] = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })) as [Record<string, Row>];
    expect(Object.keys(round)).toEqual(CASES);
    for (const name of CASES) expect(round[name]?.perSecond, name).toBeGreaterThan(0);
    expect(round['give-1e3']?.givenPerSecond).toBeGreaterThan(0);
    expect(round['free-1%']?.mailedPerSecond).toBeGreaterThan(0);
  });
});
