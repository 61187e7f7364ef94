"""Makes a recommender of a shop's own orders and products in about a minute.

python examples/quickstart.py orders.csv products.csv
python examples/quickstart.py orders.csv products.csv --columns user=customer_no item=sku time=ordered_at --minutes 2
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("quickstart")
