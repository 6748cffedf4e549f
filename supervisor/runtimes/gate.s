# The first process of a container: waits, starts the payload, reaps, and ends with it.
#
# A flat ELF file for x86-64 Linux: as -o gate.o gate.s && ld --oformat binary -Ttext 0x400000 -o gate gate.o
# Its arguments are PROGRAM, ARGUMENT ...; the environment that an engine made is not passed on.
# It reads one byte from standard input, until which the keeper mounts what engines cannot; applies the Landlock rules and
# the system call filter that follow it in the file (see gate.py); and then reads the size of the environment, eight
# bytes, and that itself, made ready for the address ENVIRONMENT. Until that comes the monitor reads back, from outside, what the engine and the gate made; no engine writes it down.
# It runs with the payload's identity, filter and limits, and shows itself to nobody inside.

	.code64
	.intel_syntax noprefix
	.text
	.globl	_start
base:
	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
	.word	2, 62			# ET_EXEC, EM_X86_64
	.long	1
	.quad	_start, 64, 0
	.long	0
	.word	64, 56, 1, 0, 0, 0
	.long	1, 5			# PT_LOAD, readable and executable
	.quad	0, base, base, data - base, data - base, 0x1000
	.set	ALL, -8			# below the stack: every signal, no signal, one word
	.set	NONE, -16
	.set	CELL, -24
	.set	RULE, -40		# struct landlock_path_beneath_attr
	.set	PROGRAM, -56		# struct sock_fprog
	.set	ENVIRONMENT, 0x10000000	# above the program and its heap, below everything else

_start:
	mov	rbp, rsp
	sub	rsp, 64
	mov	qword ptr [rbp + ALL], -1
	mov	qword ptr [rbp + NONE], 0
	xor	edi, edi		# SIG_BLOCK
	lea	rsi, [rbp + ALL]
	call	mask

	lea	rsi, [rbp + CELL]	# one byte: everything is mounted that its rules name
	mov	edx, 1
	call	whole

	lea	r14, [rip + data]
	mov	rsi, [r14]
	test	rsi, rsi
	jz	filter
	lea	rdi, [r14 + 8]		# landlock_create_ruleset(attr, size, 0)
	xor	edx, edx
	mov	eax, 444
	syscall
	test	eax, eax
	js	unruled
	mov	r15d, eax
	mov	rbx, [r14 + 32]
	lea	r12, [r14 + 56]
1:	test	rbx, rbx
	jz	2f
	mov	rdi, [r12 + 8]		# open(path, O_PATH | O_CLOEXEC)
	add	rdi, r14
	mov	esi, 0x280000
	xor	edx, edx
	mov	eax, 2
	syscall
	test	eax, eax
	js	unruled
	mov	r13d, eax
	mov	rcx, [r12]
	mov	[rbp + RULE], rcx
	mov	[rbp + RULE + 8], eax
	mov	edi, r15d		# landlock_add_rule(ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
	mov	esi, 1
	lea	rdx, [rbp + RULE]
	xor	r10d, r10d
	mov	eax, 445
	syscall
	test	eax, eax
	js	unruled
	mov	edi, r13d		# close
	mov	eax, 3
	syscall
	add	r12, 16
	dec	rbx
	jmp	1b
2:	mov	edi, r15d		# landlock_restrict_self(ruleset, 0)
	xor	esi, esi
	mov	eax, 446
	syscall
	test	eax, eax
	js	unruled
	mov	edi, r15d
	mov	eax, 3
	syscall

filter:	mov	rax, [r14 + 40]
	test	rax, rax
	jz	wait_go
	mov	[rbp + PROGRAM], rax
	mov	rax, [r14 + 48]
	add	rax, r14
	mov	[rbp + PROGRAM + 8], rax
	mov	edi, 1			# seccomp(SECCOMP_SET_MODE_FILTER, 0, program)
	xor	esi, esi
	lea	rdx, [rbp + PROGRAM]
	mov	eax, 317
	syscall
	test	eax, eax
	js	unfiltered

wait_go:
	lea	rsi, [rbp + CELL]	# the size
	mov	edx, 8
	call	whole
	mov	edi, ENVIRONMENT	# mmap(ENVIRONMENT, size, read and write, private, anonymous and nowhere else, -1, 0)
	mov	rsi, [rbp + CELL]
	mov	edx, 3
	mov	r10d, 0x100022
	mov	r8, -1
	xor	r9d, r9d
	mov	eax, 9
	syscall
	mov	r12d, ENVIRONMENT
	cmp	rax, r12
	jne	never
	mov	rsi, r12
	mov	rdx, [rbp + CELL]
	call	whole
	lea	r13, [rbp + 16]		# &argv[1]: the program
	mov	edi, 4			# prctl(PR_SET_DUMPABLE, 0): its memory is nobody's business
	xor	esi, esi
	mov	eax, 157
	syscall

	mov	edi, 17			# clone(SIGCHLD): a fork
	xor	esi, esi
	xor	edx, edx
	xor	r10d, r10d
	xor	r8d, r8d
	mov	eax, 56
	syscall
	test	rax, rax
	js	never
	jz	payload
	mov	ebx, eax

	xor	edi, edi		# close_range(0, everything): whoever reads must see the payload's end of file
	mov	esi, -1
	xor	edx, edx
	mov	eax, 436
	syscall

wait:	lea	rdi, [rbp + ALL]	# rt_sigtimedwait(&all, 0, 0, 8)
	xor	esi, esi
	xor	edx, edx
	mov	r10d, 8
	mov	eax, 128
	syscall
	test	eax, eax
	jle	wait
	cmp	eax, 17
	je	reap
	mov	esi, eax		# kill(payload, signal)
	mov	edi, ebx
	mov	eax, 62
	syscall
	jmp	wait

reap:	mov	rdi, -1			# wait4(-1, &word, WNOHANG, 0)
	lea	rsi, [rbp + CELL]
	mov	edx, 1
	xor	r10d, r10d
	mov	eax, 61
	syscall
	test	eax, eax
	jle	wait
	cmp	eax, ebx
	jne	reap
	mov	edi, [rbp + CELL]
	mov	eax, edi
	and	eax, 127
	jnz	1f
	shr	edi, 8			# its exit status
	and	edi, 255
	jmp	leave
1:	lea	edi, [rax + 128]	# the signal that ended it
	jmp	leave

payload:
	mov	edi, 2			# SIG_SETMASK
	lea	rsi, [rbp + NONE]
	call	mask
	mov	rdi, [r13]		# execve(argv[0], argv, environment)
	mov	rsi, r13
	mov	rdx, r12
	mov	eax, 59
	syscall
	mov	edi, 2			# write(2, text)
	lea	rsi, [rip + text]
	mov	edx, data - text
	mov	eax, 1
	syscall
	mov	edi, 127
	jmp	leave
unruled:
	mov	edi, 121
	jmp	leave
unfiltered:
	mov	edi, 122
	jmp	leave
never:	mov	edi, 125
leave:	mov	eax, 231		# exit_group
	syscall

whole:	test	rdx, rdx		# read(0, rsi, rdx), all of it
	jz	1f
	xor	edi, edi
	xor	eax, eax
	syscall
	test	rax, rax
	jle	never
	add	rsi, rax
	sub	rdx, rax
	jmp	whole
1:	ret

mask:	xor	edx, edx		# rt_sigprocmask(how, set, 0, 8)
	mov	r10d, 8
	mov	eax, 14
	syscall
	ret

text:	.ascii	"the program of this server could not be executed in its image\n"
	.balign	8
data:
