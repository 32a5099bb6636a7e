// The demos say what the engine does. Rules in docs/spec/memmap.md.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { gigantic, rfc2018 } from './index.ts';

const GIB = 2 ** 30;

describe('rfc2018', () => {
  const report = rfc2018();

  it('MR5 a machine that adds and removes the DIMM prints the document’s lines', () => {
    const text = readFileSync(new URL('../../test/golden/memmap/rfc2018.txt', import.meta.url), 'utf8');
    const [upper, lower] = text.split('...\n').map((part) => part.trimEnd().split('\n'));
    expect(report.trace.length).toBe(81);
    expect(report.trace.slice(0, upper.length)).toEqual(upper);
    expect(report.trace.slice(-lower.length)).toEqual(lower);
    expect(new Set(report.trace).size).toBe(81);
  });

  it('MM12 its head counts in the total and is shown as allocated; afterwards all is as it was', () => {
    expect(report).toMatchObject({ headPages: 40960, kernelPages: 0 });
    const rows = report.stages.map((s) => [s.stage, s.presentBytes / GIB, s.memTotalBytes / GIB, s.memFreeBytes / GIB]);
    expect(rows).toEqual([
      ['booted', 4, 4, 4],
      ['added', 14, 4, 4],
      ['online', 14, 14, 14 - 160 / 1024],
      ['offline', 14, 4, 4],
      ['removed', 4, 4, 4],
    ]);
  });
});

describe('gigantic', () => {
  it('MM5 HB8 D-2: what a machine yields is what the plan says: kernel and host-section 10, self-range 9, self-block 0 (5 of 2 GiB)', () => {
    const rows = gigantic();
    expect(rows.length).toBe(20);
    for (const r of rows) {
      const said = `${r.policy} ${r.blockBytes}`;
      const selfBlock = r.blockBytes === 2 * GIB ? 5 : 0;
      const whole = { kernel: 10, 'self-range': 9, 'self-block': selfBlock, 'host-section': 10 }[r.policy];
      expect(r.measured, said).toBe(whole);
      expect(r.derived, said).toBe(whole);
      const elsewhere = r.policy === 'kernel' || r.policy === 'host-section';
      expect(r.hostedBytes, said).toBe(elsewhere ? 0 : 160 * 2 ** 20);
      // Block by block, ten GiB are mapped by ten tables, unless a block is a GiB.
      const tables = r.policy === 'self-block' && r.blockBytes < GIB ? 10 * 4096 : 0;
      expect(r.kernelBytes, said).toBe(elsewhere ? 160 * 2 ** 20 : tables);
    }
  });
});
