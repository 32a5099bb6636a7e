// I7 (spec 9.A): with only the built-in pools every text of /proc is what it is without pools, byte for byte.
//
//   twins of real machines     asked for their pools, with pools made and ended: the same bytes before and after
//   recorded guests            replayed with the same done to them at boot: not one reading differs from the record
//
// Per-CPU lists are emptied first: making a pool empties them, and what is on them is no page of the free lists.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Capture } from '#capture/index';
import { replay } from '#conformance/replay';
import { reportText } from '#conformance/report';
import { readCapture } from '#hosts/linux/read-capture';
import { type Machine, pools } from '#mm/index';
import { kernelTree } from '#tree/kernel-tree';
import { treeSnapshot } from '#tree/tree-snapshot';
import { buildTwin } from '#twin/index';
import { ROOT } from '../support/source-files.ts';

const TWINS = join(ROOT, 'test/golden/twin');
const GUESTS = join(ROOT, 'test/golden/conformance');
const BUNDLES = [
  ...readdirSync(TWINS)
    .filter((name) => name.endsWith('.dimmer'))
    .map((name) => join(TWINS, name)),
  join(ROOT, 'test/golden/demo.dimmer'),
  join(ROOT, 'test/golden/cli/busy-dimm.dimmer'),
];

const open = (path: string): Capture => {
  const read = readCapture(path, { now: () => new Date(0) });
  if (!read.ok) throw new Error(read.error.sentence);
  return read.value;
};

/** Asks for the pools; then makes some of each node's memory, and ends them. @returns how many */
function makeAndEnd(m: Machine): number {
  const p = pools(m);
  expect(p.list().filter((s) => s.kind === 'user')).toEqual([]);
  expect(p.nodes().map((s) => s.name)).toEqual(m.nodes.map((n) => `node${n}`));
  let made = 0;
  for (const node of m.nodes) {
    for (const pages of [1, 700, 5000]) {
      const name = `p${node}-${pages}`;
      if (!p.create({ name, pages, nodes: [node], zones: ['DMA', 'DMA32', 'Normal', 'Movable'] }).ok) continue;
      made++;
      const ended = p.destroy(name);
      if (!ended.ok) throw new Error(ended.error.message);
    }
  }
  for (const pool of m.pools) pool.alloc.drain();
  return made;
}

/** Every file of the tree, as it reads now. */
function textsOf(m: Machine, capture: Capture): Map<string, string> {
  const fs = kernelTree(m, { base: capture.tree });
  const out = new Map<string, string>();
  for (const file of treeSnapshot(fs)) {
    if (file.kind === 'text') out.set(file.path, file.text);
  }
  return out;
}

describe('only built-in pools', () => {
  for (const bundle of BUNDLES) {
    it(`A9 I7 ${bundle.slice(ROOT.length)}: every file is what it was, byte for byte`, () => {
      const capture = open(bundle);
      const twin = buildTwin(capture);
      if (!twin.ok || twin.value.level !== 'pages') throw new Error('no twin');
      const { machine } = twin.value;
      for (const pool of machine.pools) pool.alloc.drain();
      const before = textsOf(machine, capture);
      expect(before.has('/proc/zoneinfo')).toBe(true);
      expect(makeAndEnd(machine)).toBeGreaterThan(0);
      const after = textsOf(machine, capture);
      expect([...after.keys()]).toEqual([...before.keys()]);
      for (const [path, text] of before)
        if (text !== after.get(path)) expect([path, after.get(path)]).toEqual([path, text]);
      expect(machine.check()).toEqual([]);
    });
  }

  const names = readdirSync(GUESTS).filter((n) => existsSync(join(GUESTS, n, 'ops.jsonl')));
  it.each(names)('A9 I7 %s: replayed with pools made and ended at boot, nothing is wrong', (name) => {
    let made = 0;
    const result = replay({
      name,
      ops: readFileSync(join(GUESTS, name, 'ops.jsonl'), 'utf8'),
      snapshot: (dir) => open(join(GUESTS, name, dir)),
      blockPages: () => undefined,
      prepare: (m) => {
        made += makeAndEnd(m);
      },
    });
    expect(made).toBeGreaterThan(0);
    expect(result.ok && result.value.wrong, reportText([{ name, result }])).toEqual([]);
  });
});
