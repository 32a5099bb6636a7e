import { describe, expect, it } from 'vitest';
import { goldenText } from '../../test/golden/kernfs/load.ts';
import { freePagesOf, parseBuddyinfo, printBuddyinfo } from './buddyinfo.ts';
import { formatProblem } from './text.ts';

const DMA = 'Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 \n';
const DMA32 = 'Node 0, zone    DMA32      2      1      4      2      5      4      4      4      5      3    751 \n';
const refusal = (text: string) => {
  const parsed = parseBuddyinfo(text);
  return parsed.ok ? undefined : formatProblem(parsed.error);
};

describe('buddyinfo', () => {
  it('reads node, zone and eleven orders', () => {
    expect(parseBuddyinfo(DMA)).toEqual({
      ok: true,
      value: [{ node: 0, zone: 'DMA', nrFree: [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 3] }],
    });
  });
  it('free pages are chunks times their size', () => {
    const parsed = parseBuddyinfo(goldenText('host-6.18/buddyinfo'));
    expect(parsed.ok && parsed.value.map(freePagesOf)).toEqual([3840, 772852, 208275]);
  });
  it('KF1 counts wider than their column push the next ones to the right', () => {
    const text = 'Node 12, zone  Movable 1234567      1 \n';
    const parsed = parseBuddyinfo(text);
    expect(parsed.ok && printBuddyinfo(parsed.value)).toBe(text);
  });
  it('KF3 refuses zones out of order, unknown zones and lines of unequal length, naming the line', () => {
    expect(refusal(DMA32 + DMA)).toBe('/proc/buddyinfo, line 2: zone DMA of node 0 does not belong here');
    expect(refusal(DMA + DMA)).toBe('/proc/buddyinfo, line 2: zone DMA of node 0 does not belong here');
    expect(refusal(DMA.replace('DMA', 'DNA'))).toMatch(/^\/proc\/buddyinfo, line 1: expected "Node N, zone NAME"/);
    expect(refusal(DMA + DMA32.replace('   751', ''))).toBe(
      '/proc/buddyinfo, line 2: 10 orders, but 11 in the line before',
    );
    expect(refusal('Node 0, zone DMA \n')).toMatch(/free counts/);
  });
});
