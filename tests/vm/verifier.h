// The number of instructions of a program that the kernel's verifier may process.
//
// The verifier follows a program's paths until each has ended or is like one that it has seen, and refuses a program
// for which it would have to process more than a million instructions. Their number differs between kernels, by a
// factor of ten for the same program, and grows with each branch; so a program that is close to the limit on one
// kernel may be beyond it on another, or after the next change.
#ifndef VERIFIER_H
#define VERIFIER_H

enum { INSTRUCTIONS_LIMIT = 1000000, INSTRUCTIONS_ALLOWED = 850000 };

#endif
