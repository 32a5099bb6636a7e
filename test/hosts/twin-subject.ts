// The twin host as a subject of the Host port's cases: a guest of the engine with a pinned page and a kernel page in its DIMM.
//
//   block 40  Movable, free      41  Movable, a page that somebody pinned      42  Normal, a page of the slab

import { expect } from 'vitest';
import { toPfn } from '../../src/base/units.ts';
import type { TwinHost } from '../../src/hosts/twin/twin-host.ts';
import { D1, fill, stateOf, twinWorld, type WorldOptions } from '../support/twin-world.ts';
import type { Around, Subject } from './host.cases.ts';

export function twinSubject(options: WorldOptions = {}): { readonly twin: TwinHost; readonly subject: Subject } {
  const twin = twinWorld({ name: 'twin', ...options });
  const [page] = fill(twin, D1 + 1, 'anonymous', 1);
  twin.machine.pin(toPfn(page as number));
  const boot = 34; // of the boot memory of node 1: Normal
  fill(twin, boot, 'slab', 1);
  const subject: Subject = {
    host: twin,
    state: () => Promise.resolve(stateOf(twin)),
    nowMs: () => twin.clock.nowMs(),
    after: (ms, run) => twin.clock.at(twin.clock.nowMs() + ms, run),
    movable: D1,
    refused: { block: boot, errno: 'EBUSY' },
    endless: D1 + 1,
    dimm: options.hypervisor === 'none' ? { lacks: 'there is no hypervisor' } : { id: 'd1', memdev: 'mem-d1' },
    captures: true,
  };
  return { twin, subject };
}

export const aroundTwin =
  (options: WorldOptions = {}): Around =>
  async (body) => {
    const { twin, subject } = twinSubject(options);
    await body(subject);
    expect(twin.check()).toEqual([]);
  };
