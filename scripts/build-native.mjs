// Builds build/Release/seqmix.node and, where nvcc is found, build/Release/seqmix_cuda.so. Only what changed is compiled.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { build } from './cmake.mjs'
import { addon, cudaLibrary, cudaOption, fingerprint, products, stamp } from './native-options.mjs'

const made = fingerprint()
rmSync(stamp, { force: true })
if (cudaOption() === 'OFF') rmSync(cudaLibrary, { force: true })
build('release', { SEQMIX_CUDA: cudaOption() })
mkdirSync(products, { recursive: true })
writeFileSync(stamp, `${JSON.stringify(made)}\n`)
console.log(`built ${addon}`)
