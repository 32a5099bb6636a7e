// A server process for the mount tests: mounts a FakeKernel on its argument, and says so in one line of JSON.
//
//   server.ts DIR [timeoutMs]        SIGTERM: unmounts, exit 0    "exit\n" on stdin: process.exit(7)
//                                    "throw\n": an exception      "held\n": what the kernel holds, one line of JSON
//                                    "bug PATH\n": reading PATH is a bug of the tree from now on

import { mountFuse } from '../../src/hosts/fuse/index.ts';
import { FakeKernel } from './fake-kernel.ts';

const [dir = '', timeoutMs] = process.argv.slice(2);
const tree = new FakeKernel({ steps: Number(process.env.FAKE_STEPS ?? 50) });
const mounted = await mountFuse(tree, dir, timeoutMs === undefined ? {} : { writeTimeoutMs: Number(timeoutMs) });
if (!mounted.ok) {
  process.stdout.write(`${JSON.stringify(mounted.error)}\n`);
  process.exit(4);
}
const { value } = mounted;
process.on('SIGTERM', async () => {
  await value.unmount();
  process.exit(0);
});
process.stdin.on('data', (chunk: Buffer) => {
  const [word, path] = chunk.toString().trim().split(' ');
  if (word === 'exit') process.exit(7);
  if (word === 'throw') throw new Error('thrown on purpose');
  if (word === 'bug') tree.bugAt = path;
  if (word === 'held') process.stdout.write(`${JSON.stringify(value.held)}\n`);
});
process.stdout.write(`${JSON.stringify({ tag: value.tag, watchdogPid: value.watchdogPid })}\n`);
const { error } = await value.closed;
process.stdout.write(`${JSON.stringify({ closed: error === undefined ? 'unmounted' : String(error) })}\n`);
process.stdin.destroy();
