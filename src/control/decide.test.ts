// decide: its table, row by row. Rules in docs/spec/executor.md.

import { describe, expect, it } from 'vitest';
import type { Observation } from '#plan/observation';
import type { Action, Condition } from '#plan/plan';
import { decide } from './decide.ts';

function observation(state: string, virtio?: { requested: number; size: number }): Observation {
  const device = { id: 'vm0', addr: 0, node: 0, maxSize: 100, blockSize: 2, memdev: 'm' };
  return {
    blockBytes: 1,
    autoOnline: 'offline',
    blocks: [{ id: 34, state, zone: state === 'online' ? 'Movable' : undefined, validZones: [], nodes: [0] }],
    memTotal: 0,
    memFree: 0,
    memAvailable: undefined,
    free: [],
    hugePages: [],
    hypervisor:
      virtio === undefined
        ? undefined
        : { baseBytes: 0, pluggedBytes: 0, dimms: [], virtioMem: [{ ...device, ...virtio }] },
  };
}
const block = (state: 'online' | 'offline', zone?: string): Condition => ({
  is: 'block',
  block: 34,
  state,
  ...(zone === undefined ? {} : { zone }),
});
const offline = {
  action: { do: 'offline-block', block: 34 } as Action,
  expect: [block('online', 'Movable')],
  effect: [block('offline')],
};
const resize = {
  action: { do: 'resize-virtio-mem', id: 'vm0', bytes: 10 } as Action,
  expect: [{ is: 'virtio-mem', id: 'vm0', requested: 20 } as const],
  effect: [{ is: 'virtio-mem', id: 'vm0', requested: 10, size: 10 } as const],
};

describe('EC16 decide', () => {
  const rows = [
    ['the effect holds', offline, observation('offline'), 'done'],
    ['it is under way', offline, observation('going-offline'), 'wait'],
    ['what was expected holds', offline, observation('online'), 'redo'],
    ['neither before nor after', { ...offline, expect: [block('online', 'Normal')] }, observation('online'), 'undo'],
    [
      'a DIMM that nobody can ask about',
      {
        ...offline,
        effect: [{ is: 'dimm', id: 'd', present: false } as const],
        expect: [{ is: 'dimm', id: 'd', present: true } as const],
        action: { do: 'remove-dimm', id: 'd', memdev: 'm' } as Action,
      },
      observation('online'),
      'undo',
    ],
    ['a value that is reached', resize, observation('online', { requested: 10, size: 10 }), 'done'],
    ['a value on its way', resize, observation('online', { requested: 10, size: 14 }), 'wait'],
    ['a value not yet asked for', resize, observation('online', { requested: 20, size: 20 }), 'redo'],
    ['a value that is another’s', resize, observation('online', { requested: 30, size: 30 }), 'redo'],
    [
      'nothing shows it',
      { action: { do: 'drop-caches', what: 3 } as Action, expect: [], effect: [] },
      observation('online'),
      'redo',
    ],
  ] as const;
  for (const [what, step, o, decision] of rows) {
    it(`EC16 ${what}: ${decision}`, () => {
      expect(decide(step, o)).toBe(decision);
    });
  }
});
