#pragma once
int _printk(const char *fmt, ...) __attribute__((__cold__, __format__(printf, 1, 2)));
int _printk_deferred(const char *fmt, ...) __attribute__((__cold__, __format__(printf, 1, 2)));
#define printk(fmt, ...) _printk(fmt, ##__VA_ARGS__)
#define printk_deferred(fmt, ...) _printk_deferred(fmt, ##__VA_ARGS__)
