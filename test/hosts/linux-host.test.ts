// The Host port's cases on the Linux host: on the tree of a booted machine that another process mounts (FUSE), with a kernel's
// errnos. Nothing is written to the machine's own /sys: the root is the mount, and the real tree is compared afterwards.

import { writeFileSync } from 'node:fs';

import { join } from 'node:path';
import { expect } from 'vitest';
import { SYSTEM_CLOCK } from '../../src/cli/system-clock.ts';
import { linuxHost } from '../../src/hosts/linux/linux-host.ts';
import { fsTree } from '../../src/hosts/linux/root.ts';
import { observe, stateLines } from '../../src/plan/observation.ts';
import { bundled, mountFile, scratch, start } from '../mount/harness.ts';
import { hostCases } from './host.cases.ts';

let server = '';
mountFile('test/hosts/linux-host', async (programs) => {
  server = await bundled('twin-server', programs);
});

// test/mount/twin-server.ts: an offline of block 2 never ends by itself, 3 holds a kernel page, 4 goes.
hostCases('the Linux host', async (body) => {
  const dir = scratch();
  const twin = start(server, [dir]);
  expect(await twin.line()).toBe('mounted');
  const state4 = join(dir, 'sys/devices/system/memory/memory4/state');
  for (const word of ['offline', 'online_movable']) writeFileSync(state4, word);
  const host = linuxHost({ root: dir, clock: SYSTEM_CLOCK, apply: true });
  try {
    await body({
      host,
      state: async () => {
        const seen = observe(fsTree(dir));
        if (!seen.ok) throw new Error(seen.error);
        return stateLines(seen.value);
      },
      nowMs: () => SYSTEM_CLOCK.nowMs(),
      after: (ms, run) => void setTimeout(run, ms),
      movable: 4,
      refused: { block: 3, errno: 'EBUSY' },
      endless: 2,
      dimm: { lacks: 'a machine has no hypervisor of its own to ask' },
      captures: true,
    });
  } finally {
    await host.close();
    twin.say('check');
    expect(await twin.line()).toBe('[]');
    twin.child.kill('SIGTERM');
    expect(await twin.code).toBe(0);
  }
});
