// A server process for tests of the Linux host: mounts the tree of a booted machine, Linux to the letter, and says so.
//
//   twin-server.ts DIR       SIGTERM: unmounts, exit 0       "check\n": what machine.check() says, one line of JSON
//
//   1 GiB, one node, blocks of 128 MiB:  2 holds a page that is pinned (an offline of it never ends by itself)
//                                        3 holds a kernel page (EBUSY)        others: free, 4 with process memory

import { toOrder, toPfn } from '../../src/base/units.ts';
import { mountFuse } from '../../src/hosts/fuse/index.ts';
import { Machine, type PageClass, simpleSpec } from '../../src/mm/index.ts';
import { kernelTree } from '../../src/tree/kernel-tree.ts';

const [dir = ''] = process.argv.slice(2);
const m = Machine.boot(simpleSpec(2 ** 30, { compat: 'linux' }));

/** One allocation of 2 MiB that lies in this block. */
function occupy(block: number, cls: PageClass): number {
  const holder = m.addHolder({ class: cls, name: cls });
  const others: number[] = [];
  for (;;) {
    const pfn = m.alloc(holder, toOrder(9));
    if (pfn < 0) throw new Error(`no memory in block ${block}`);
    if (Math.floor(pfn / m.blockPages) === block) {
      for (const other of others) m.free(toPfn(other));
      return pfn;
    }
    others.push(pfn);
  }
}

m.pin(toPfn(occupy(2, 'anonymous')));
occupy(3, 'slab');
occupy(4, 'anonymous');
const mounted = await mountFuse(kernelTree(m, { endless: 'wait' }), dir);
if (!mounted.ok) {
  process.stdout.write(`${JSON.stringify(mounted.error)}\n`);
  process.exit(4);
}
process.on('SIGTERM', async () => {
  await mounted.value.unmount();
  process.exit(0);
});
process.stdin.on('data', (chunk: Buffer) => {
  if (chunk.toString().trim() === 'check') process.stdout.write(`${JSON.stringify(m.check())}\n`);
});
process.stdout.write('mounted\n');
await mounted.value.closed;
process.stdin.destroy();
