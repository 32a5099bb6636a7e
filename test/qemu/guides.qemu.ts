// The guides whose commands need a guest: each is followed line by line, as its reader would, on a guest made as it says.
//
// A command is a line of a ```sh block that starts with "dimmer "; `# exit N` behind it names the exit code it must have. The
// guides name their guest qemu:/run/vm.qmp,agent=/run/vm.qga; files that they write land in the guest's folder.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { expectExit, sourceOf } from './dimmer.ts';
import { BALLOON, describeQemu, type Guest, MIB, virtioMem } from './guest.ts';

const SOURCE = 'qemu:/run/vm.qmp,agent=/run/vm.qga';

/** The commands of a guide: words, and the exit code. */
function commandsOf(guide: string): { words: string[]; code: number }[] {
  const text = readFileSync(fileURLToPath(new URL(`../../docs/guide/${guide}.md`, import.meta.url)), 'utf8');
  const lines = [...text.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap((block) => (block[1] as string).split('\n'));
  return lines
    .filter((line) => line.startsWith('dimmer '))
    .map((line) => ({
      words: line
        .replace(/\s+#.*$/, '')
        .split(/\s+/)
        .slice(1),
      code: Number(/# exit (\d+)/.exec(line)?.[1] ?? 0),
    }));
}

/** @param after  told of each command that ended as it should */
async function follow(guest: Guest, guide: string, after: (said: string, words: readonly string[]) => Promise<void>) {
  const commands = commandsOf(guide);
  expect(commands.length).toBeGreaterThan(2); // a guide whose commands are not found would prove nothing
  for (const { words, code } of commands) {
    const here = words.map((w) => (w === SOURCE ? sourceOf(guest) : w));
    const run = await expectExit(code, here, { cwd: guest.dir });
    await after(run.out, words);
  }
}

describeQemu({ name: 'guide failing-dimm' }, (booted) => {
  it('docs/guide/failing-dimm.md: the poisoned DIMM is named, and leaves', async () => {
    const guest = booted();
    const [block] = await guest.addOnlineDimm({ id: 'dimm1', bytes: 256 * MIB, node: 1, word: 'online_movable' });
    await guest.addOnlineDimm({ id: 'dimm2', bytes: 256 * MIB, node: 1, word: 'online_movable' });
    // One free frame in the middle of the first block, by its physical address.
    const address = `0x${(((block?.id ?? 0) * 128 + 64) * MIB).toString(16)}`;
    await guest.text(`echo ${address} > /sys/devices/system/memory/hard_offline_page`);
    await follow(guest, 'failing-dimm', async (said, words) => {
      if (words[0] === 'doctor') expect(said).toMatch(/poison/i);
      if (words[0] === 'apply' && words.includes('--dry-run')) expect(await guest.dimms()).toEqual(['dimm1', 'dimm2']);
    });
    expect(await guest.dimms()).toEqual(['dimm2']);
  });
});

describeQemu(
  { name: 'guide right-size', devices: [...virtioMem({ id: 'vm0', node: 1, maxMb: 1024 }), ...BALLOON] },
  (booted) => {
    it('docs/guide/right-size.md: larger, smaller, below the boot memory', async () => {
      const guest = booted();
      const boot = await guest.meminfo('MemTotal');
      const seen: number[] = [];
      await follow(guest, 'right-size', async (_, words) => {
        if (words[0] === 'apply') seen.push(Math.round(((await guest.meminfo('MemTotal')) - boot) / MIB));
      });
      expect(seen).toEqual([512, 0, -512]);
    });
  },
);

describeQemu({ name: 'guide huge-pages', memoryMb: 768, nodes: 1, diskMb: 900 }, (booted) => {
  it('docs/guide/huge-pages.md: page cache everywhere, and the huge pages come back', async () => {
    const guest = booted();
    await guest.text(
      'dd if=/dev/zero of=/mnt/disk/cache bs=1M count=640 2>/dev/null; sync; cat /mnt/disk/cache > /dev/null',
    );
    await follow(guest, 'huge-pages', async () => {});
    expect(Number(await guest.text('cat /proc/sys/vm/nr_hugepages'))).toBeGreaterThanOrEqual(64);
  });
});
