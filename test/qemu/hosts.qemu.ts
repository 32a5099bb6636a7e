// The Host port's cases (test/hosts) on a real guest. With DIMMER_KEEP_HOSTS=1 what was asked and answered is kept in
// test/golden/hosts, where it is played without a guest.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { treeFromFiles } from '#kernfs/memory-tree';
import { observe, stateLines } from '#plan/observation';
import { openLiveHost } from '../../src/cli/live-hosts.ts';
import { SYSTEM_CLOCK } from '../../src/cli/system-clock.ts';
import { recordHost } from '../../src/hosts/recording/index.ts';
import { hostCases, type Subject } from '../hosts/host.cases.ts';
import { ROOT } from '../support/source-files.ts';
import { sourceOf } from './dimmer.ts';
import { describeQemu, type Guest, MIB } from './guest.ts';

type World = Pick<Subject, 'movable' | 'refused' | 'endless' | 'dimm'>;

/** A DIMM of two blocks in Movable, the second with a page that a pipe holds. Made once for all cases. */
async function worldOf(guest: Guest): Promise<World> {
  const fresh = await guest.addOnlineDimm({ id: 'h0', bytes: 256 * MIB, node: 1, word: 'online_movable' });
  const [first, second] = fresh.map((b) => b.id) as [number, number];
  await guest.hold(`pin ${second} 1`);
  // Block 0 has the holes below 1 MiB: EINVAL for ever (lab fact 7).
  return {
    movable: first,
    refused: { block: 0, errno: 'EINVAL' },
    endless: second,
    dimm: { id: 'h0', memdev: 'mem-h0' },
  };
}

/** What a plan would assume of the guest, read past dimmer: by the guest's shell and the harness's own monitor. */
async function stateOf(guest: Guest): Promise<readonly string[]> {
  const dir = '/sys/devices/system/memory';
  const [size, word] = (await guest.text(`cat ${dir}/block_size_bytes ${dir}/auto_online_blocks`)).split('\n');
  const devices = await guest.monitor.request('query-memory-devices');
  const tree = new Map([
    [`${dir}/block_size_bytes`, `${size}\n`],
    [`${dir}/auto_online_blocks`, `${word}\n`],
    ['/proc/meminfo', 'MemTotal: 0 kB\nMemFree: 0 kB\n'],
    ['/proc/buddyinfo', 'Node 0, zone Normal 0 0 0 0 0 0 0 0 0 0 0\n'],
    ['/qmp/query-memory-devices', JSON.stringify(devices)],
  ]);
  for (const b of await guest.blocks()) {
    tree.set(`${dir}/memory${b.id}/state`, `${b.state}\n`);
    tree.set(`${dir}/memory${b.id}/valid_zones`, `${b.zones}\n`);
    tree.set(`${dir}/memory${b.id}/node${b.node}`, '');
  }
  const seen = observe(treeFromFiles(tree));
  if (!seen.ok) throw new Error(seen.error);
  return stateLines(seen.value);
}

function keep(title: string, told: World & { readonly states: unknown; readonly text: string }): void {
  const dir = join(ROOT, 'test/golden/hosts/qemu-7.2');
  mkdirSync(dir, { recursive: true });
  const { text, ...rest } = told;
  const recording = text.trimEnd().split('\n');
  writeFileSync(join(dir, `${title.split(' ')[0]}.json`), `${JSON.stringify({ ...rest, recording }, undefined, 1)}\n`);
}

const KEEP = process.env.DIMMER_KEEP_HOSTS === '1';
const worlds = new Map<Guest, Promise<World>>();

describeQemu({ name: 'hosts' }, (booted) => {
  hostCases('a QEMU guest', async (body, title) => {
    const guest = booted();
    const made = worlds.get(guest) ?? worldOf(guest);
    worlds.set(guest, made);
    const opened = openLiveHost(sourceOf(guest));
    if (!opened.ok) throw new Error(opened.error.sentence);
    let text = '';
    const host = recordHost(opened.value, (line) => {
      text += line;
    });
    const states: (readonly string[])[] = [];
    const world = await made;
    const subject: Subject = {
      ...world,
      host,
      state: async () => {
        const now = await stateOf(guest);
        states.push(now);
        return now;
      },
      nowMs: () => SYSTEM_CLOCK.nowMs(),
      after: (ms, run) => void setTimeout(run, ms),
      captures: true,
    };
    try {
      await body(subject);
      if (KEEP) keep(title, { ...world, states, text: text.replaceAll(guest.dir, '/run/vm') });
    } finally {
      await opened.value.close();
    }
  });
});
