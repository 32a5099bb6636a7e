// One workload on one engine in one process: prints one JSON row. run.mjs starts these; by hand:
//   node bench/one.mjs bench/engines/dimmer-address.mjs W1 '{"pages":1048576,"ops":8000000}'

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { runWorkload } from './workloads.mjs';

const [, , module, workload, sizes] = process.argv;
const { create } = await import(pathToFileURL(resolve(module)).href);
console.log(JSON.stringify(runWorkload(workload, create, JSON.parse(sizes))));
